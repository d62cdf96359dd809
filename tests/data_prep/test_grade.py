"""Tests of data_prep/grade.py: the lists of a toy collection, and the counts of MEDIQA."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import mediqa2019
from data_prep.lists.prepared import load_lists
from data_prep.lists.results import GRADED_FILES
from data_prep.queries.query import load_queries
from data_prep.retrieval.candidates import Candidates, candidate_paths
from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet, PassageSet
from tests.data_prep.toy import make_collection, make_config, run_stages


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A workspace whose lists have a query's own passage as 3, and mined ones as 1 and 0."""
    folder = tmp_path_factory.mktemp("graded")
    config = make_config(make_collection(folder / "toy"), Path("no student"))
    config.prep.retrievers = ConfigDict({"bm25": {"kind": "bm25"}})
    config.prep.query_types = ("title",)
    config.prep.list_source = "graded"
    config.prep.graded = ConfigDict(
        {
            "own": {"kind": "judged", "relabel": {"1": 3}},
            "near": {"kind": "mined", "num": 1, "label": 1, "range_max": 4},
            "far": {"kind": "mined", "num": 40, "label": 0, "range_min": 10},
        }
    )
    return run_stages(config, folder / "work")


def test_mined_entries_are_those_of_their_ranks(graded):
    lists = load_lists(GRADED_FILES.paths(graded)["title"])
    queries = load_queries(graded)
    candidates = Candidates.concatenate(
        [Candidates.load(p) for p in candidate_paths(graded).values()]
    )
    for place, number in enumerate(lists.numbers):
        query, rows = queries[number], candidates.rows[number]
        ranks = candidates.fused_rank[number]
        others = [
            (rank, row)
            for rank, row in zip(ranks, rows, strict=True)
            if rank > 0 and row != query.row and row not in query.never_negative
        ]
        near = [row for rank, row in others if rank <= 4][:1]
        far = [row for rank, row in others if rank > 10]
        size = (lists.rows[place] >= 0).sum()
        assert lists.rows[place, :size].tolist() == [query.row, *near, *far]
        assert lists.labels[place, :size].tolist() == [3] + [1] * len(near) + [0] * len(far)
    sources = read_json(graded.prep / "graded.json")["facts"]["title"]["sources"]
    assert sources["own"] == {"label 3": len(lists.numbers), "lists with fewer than wanted": 0}
    assert sources["far"]["label 0"] == int((lists.labels == 0).sum())
    assert sources["far"]["lists with fewer than wanted"] == len(lists.numbers)  # 20 are found


def test_a_list_of_one_label_is_dropped(graded):
    config = graded.config.copy_and_resolve_references()
    config.prep.graded.near.num = config.prep.graded.far.num = 0
    with pytest.raises(UserError, match=r"no lists: .*'one label alone': \d+.*two labels"):
        run_stages(config, graded.workdir, ["grade"])
    run_stages(graded.config, graded.workdir, ["grade", "write_tfrecords"])


def test_records_of_graded_lists(graded):
    manifest = Manifest.read(graded.records)
    assert manifest.teachers == []
    assert manifest.num_synthetic_passages == 0
    assert manifest.judges == {}
    stages = {"corpus", "generate_queries", "mine", "grade", "write_tfrecords"}
    assert set(manifest.yields) == stages
    record = ListSet(graded.records, "train")[0]
    assert record.rows[0] == record.source_row
    assert len(record.teacher_scores) == 0


def test_mediqas_grades_are_the_labels(data_dir, tmp_path):
    """Every list has all answers that people judged for its question, with their grades."""
    root = data_dir / "mediqa2019"
    config = mediqa2019.get_config()
    config.data.root = str(root)
    workspace = run_stages(config, tmp_path)
    with open(root / "qrels" / "train.tsv", newline="") as file:
        qrels: dict[str, dict[str, int]] = {}
        for line in csv.DictReader(file, delimiter="\t"):
            qrels.setdefault(line["query-id"], {})[line["corpus-id"]] = int(line["score"])
    passages = PassageSet(workspace.records)
    labels_by_query = {}
    for split in ("train", "dev"):
        lists = ListSet(workspace.records, split)
        for record in (lists[n] for n in range(len(lists))):
            names = [passages[row].doc_id for row in record.rows.tolist()]
            labels_by_query[record.query_id] = dict(zip(names, record.labels.tolist(), strict=True))
            assert record.labels[0] == record.labels.max()
    assert labels_by_query == {query_id: qrels[query_id] for query_id in labels_by_query}
    assert len(labels_by_query) == 186
    # The others have no relevant answer, or one grade alone, or the words of a dev question.
    others = [set(qrels[query_id].values()) for query_id in qrels.keys() - labels_by_query.keys()]
    assert sum(len(grades) > 1 for grades in others) == 1
    counts = Counter(label for labels in labels_by_query.values() for label in labels.values())
    facts = read_json(workspace.prep / "graded.json")["facts"]["human"]["sources"]["people"]
    assert {f"label {label}": count for label, count in counts.items()} == {
        name: count for name, count in facts.items() if name.startswith("label")
    }
    assert counts == {3: 336, 2: 286, 1: 620, 0: 290}
