"""Tests of data_prep/lists/graded.py and grade.py: lists by hand, and the counts of MEDIQA."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import mediqa2019, sycl
from data_prep.lists.graded import (
    Material,
    compose,
    graded_paths,
    graded_sources,
    judges_of,
    ordered,
)
from data_prep.lists.prepared import load_lists
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.settings import check_prep, graded_kinds, has_documents
from data_prep.pipeline.workspace import open_workspace
from data_prep.preflight.checks import check_config
from data_prep.queries.query import Query, load_queries
from data_prep.retrieval.candidates import Candidates, candidate_paths
from ldx.common.errors import UserError
from ldx.common.files import read_json, write_json
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet, PassageSet
from tests.data_prep.toy import make_collection, make_config, run_stages

# Rows 1 to 5 are judged; by the draws of their rows 3 comes before 1, and 5 before 4.
JUDGED = {1: 2, 2: 0, 3: 2, 4: 1, 5: 1}
MATERIAL = Material(
    JUDGED,
    {3: 103, 2: 102, 1: 101, 0: 100},
    np.array([7, 3, 8, 9, 6, 10]),
    np.array([1, 2, 3, 4, 6, 7]),
    draw=lambda row: {3: 0.1, 1: 0.2, 5: 0.3, 4: 0.4, 2: 0.5}[row],
)


def entries(sections, material=MATERIAL):
    return ordered(compose(graded_sources(sections), material))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "judged"}, [(3, 2), (1, 2), (5, 1), (4, 1), (2, 0)]),
        # One of each grade, then the second ones.
        ({"kind": "judged", "num": 2}, [(3, 2), (5, 1)]),
        ({"kind": "judged", "num": 4}, [(3, 2), (1, 2), (5, 1), (2, 0)]),
        ({"kind": "judged", "num": 2, "relabel": {"1": 3}}, [(5, 3), (3, 2)]),
        ({"kind": "synthetic"}, [(103, 3), (102, 2), (101, 1), (100, 0)]),
        ({"kind": "synthetic", "levels": (0, 3)}, [(103, 3), (100, 0)]),
        # Row 3 is judged, so it is not mined.
        ({"kind": "mined", "num": 2}, [(7, 0), (8, 0)]),
        ({"kind": "mined", "num": 3, "label": 1, "range_min": 2}, [(8, 1), (9, 1), (6, 1)]),
        ({"kind": "mined", "num": 2, "range_min": 3, "range_max": 5}, [(9, 0)]),
        ({"kind": "mined", "num": 0}, []),
    ],
)
def test_what_a_source_gives(section, expected):
    assert entries({"one": section}) == expected


def test_sources_together():
    """The highest label first; of equal ones what was judged, then written, then mined."""
    sections = {
        "a": {"kind": "mined", "num": 1, "label": 0, "range_min": 3},
        "b": {"kind": "mined", "num": 1, "label": 1},
        "c": {"kind": "synthetic", "levels": (3, 1)},
        "d": {"kind": "judged", "num": 2, "relabel": {"2": 3}},
    }
    assert entries(sections) == [(3, 3), (103, 3), (5, 1), (101, 1), (7, 1), (9, 0)]


def test_no_row_stands_twice():
    sections = {
        "first": {"kind": "mined", "num": 2, "label": 1},
        "second": {"kind": "mined", "num": 2, "label": 0},
    }
    assert entries(sections) == [(7, 1), (8, 1), (9, 0), (6, 0)]


def test_no_written_passage_stands_twice():
    sections = {
        "first": {"kind": "synthetic", "levels": (3, 0)},
        "second": {"kind": "synthetic", "levels": (2, 3)},
    }
    assert entries(sections) == [(103, 3), (102, 2), (100, 0)]


def test_what_is_not_there_is_not_filled_up():
    nothing = Material()
    sections = {"a": {"kind": "synthetic"}, "b": {"kind": "mined", "num": 3}, "c": JUDGED_ALL}
    assert entries(sections, nothing) == []
    written = Material(written={3: 103})
    assert entries(sections, written) == [(103, 3)]


JUDGED_ALL = {"kind": "judged"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "judged", "num": -1}, r"graded\.one\.num=-1: wanted at least 0, or None"),
        ({"kind": "judged", "relabel": {"1": -3}}, r"graded\.one\.relabel=.*such as"),
        ({"kind": "judged", "relabels": {}}, r"graded\.one\.relabels: there is no such key"),
        ({"kind": "synthetic", "levels": "321"}, r"graded\.one\.levels='321'"),
        ({"kind": "synthetic", "levels": 3}, r"graded\.one\.levels=3: wanted levels of the"),
        ({"kind": "synthetic", "levels": (3, 3)}, r"graded\.one\.levels=\(3, 3\): .* each once"),
        ({"kind": "synthetic", "levels": (3, True)}, r"graded\.one\.levels=\(3, True\)"),
        ({"kind": "mined", "num": 3, "range_min": 2, "range_max": 4}, r"room for num=3"),
        ({"kind": "mined", "label": True}, r"graded\.one\.label=True"),
    ],
)
def test_settings_that_cannot_be(section, message):
    with pytest.raises(UserError, match=message):
        graded_sources({"one": section})


def test_what_the_config_says_is_checked_before_the_first_stage(tmp_path):
    config = sycl.get_config()
    check_config(open_workspace(config, tmp_path))
    config.prep.graded.written.levels = (4, 0)
    with pytest.raises(UserError, match=r"written\.levels=\(4, 0\): the prompt four_levels has"):
        check_config(open_workspace(config, tmp_path))
    for key, value, message in [
        ("list_source", "labels", "wanted teacher or graded"),
        ("graded", {}, r"graded is empty"),
        ("graded", {"x": {"kind": "human"}}, "wanted judged or synthetic or mined"),
        ("graded", {"x": {"num": 1}}, "wanted settings with a kind"),
    ]:
        prep = sycl.get_config().prep.to_dict() | {key: value}
        with pytest.raises(UserError, match=message):
            check_prep(prep)


def settings_of(config):
    return check_prep(config.prep.to_dict())


def test_stages_are_those_that_the_sources_need():
    config = sycl.get_config()

    def stages():
        return stages_of(settings_of(config))

    assert has_documents(settings_of(config))
    assert graded_kinds(settings_of(config)) == {"synthetic"}
    before, after = ("corpus", "generate_queries"), ("grade", "write_tfrecords")
    assert stages() == (*before, "generate_documents", *after)
    config.prep.graded.mined.num = 2
    assert stages() == (*before, "generate_documents", "mine", *after)
    for none in ((), []):
        with config.prep.unlocked():
            config.prep.graded.written.levels = none
        assert stages() == (*before, "mine", *after)
    assert stages_of(settings_of(sycl.get_config("smoke"))) == (*before, "mine", *after)
    assert stages_of(settings_of(mediqa2019.get_config())) == (*before, *after)
    config.prep.list_source = "teacher"
    assert "score" in stages()
    assert not has_documents(settings_of(config))


def test_the_published_recipe():
    """Contriever, mean, dot products, temperature 1, 1e-5, one epoch, warm-up of 5%."""
    config = sycl.get_config()
    assert (config.model.pooling, config.model.normalize) == ("mean", False)
    assert (config.model.query_max_length, config.model.passage_max_length) == (256, 256)
    assert config.data.batch_size == 4 * 16 * 4
    assert config.optim.learning_rate == 1e-5
    assert config.train.max_epochs == 1
    steps = sycl.LISTS_OF_AN_EPOCH / config.data.batch_size
    assert config.optim.warmup_steps == pytest.approx(0.05 * steps, abs=0.5)
    weights = {name: section.get("weight") for name, section in config.loss.items()}
    assert {name for name, weight in weights.items() if weight} == {"wasserstein"}
    assert config.loss.wasserstein.temperature == 1.0
    assert config.loss.wasserstein.form == "batch"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Lists of extractive queries: their own passage as 3, mined ones as 1 and 0."""
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
    lists = load_lists(graded_paths(graded)["title"])
    queries = load_queries(graded)
    found = Candidates.concatenate([Candidates.load(p) for p in candidate_paths(graded).values()])
    for place, number in enumerate(lists.numbers):
        query, rows = queries[number], found.rows[number]
        ranks = found.fused_rank[number]
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
    assert set(manifest.yields) == {"corpus", "generate_queries", "mine", "grade"}
    record = ListSet(graded.records, "train")[0]
    assert record.rows[0] == record.source_row
    assert len(record.teacher_scores) == 0


@pytest.mark.parametrize(
    ("counts", "judges"),
    [
        ({"real": {"label 3": 4, "label 0": 1}}, ["people"]),
        ({"written": {"label 3": 4, "label 0": 1}}, ["a language model"]),
        ({"written": {"label 2": 4}, "real": {"label 3": 2}}, ["people", "a language model"]),
        # What is not relevant, or stands in no list, is nobody's judgment of relevance.
        ({"real": {"label 1": 4}, "found": {"label 0": 8}}, ["people"]),
        ({"written": {"label 1": 4}, "real": {"lists with fewer than wanted": 3}},
         ["a language model"]),
        ({"found": {"label 10": 1}}, ["retrievers"]),
    ],
)  # fmt: skip
def test_who_judged_is_whose_entries_are_relevant(counts, judges, tmp_path):
    workspace = open_workspace(make_config(tmp_path, Path("no student")), tmp_path / "work")
    kinds = {"written": "synthetic", "real": "judged", "found": "mined"}
    sources = {name: {"kind": kind} for name, kind in kinds.items()}
    value = {"types": ["human"], "sources": sources, "facts": {"human": {"sources": counts}}}
    write_json(workspace.prep / "graded.json", value)
    assert judges_of(workspace, "human") == judges


def test_judged_grades_of_a_query():
    human = Query("q", "human", "text", -1, "", {4: 2}, "d4", irrelevant=[5])
    assert human.judged == {4: 2, 5: 0}
    assert Query("q", "title", "text", 7, "", {}, "d7").judged == {7: 1}


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
    found = {}
    for split in ("train", "dev"):
        lists = ListSet(workspace.records, split)
        for record in (lists[n] for n in range(len(lists))):
            names = [passages[row].doc_id for row in record.rows.tolist()]
            found[record.query_id] = dict(zip(names, record.labels.tolist(), strict=True))
            assert record.labels[0] == record.labels.max()
    assert found == {query_id: qrels[query_id] for query_id in found}
    assert len(found) == 186
    # The others: no relevant answer, or one grade alone, or the words of a dev question.
    others = [set(qrels[query_id].values()) for query_id in qrels.keys() - found.keys()]
    assert sum(len(grades) > 1 for grades in others) == 1
    counts = Counter(label for labels in found.values() for label in labels.values())
    told = read_json(workspace.prep / "graded.json")["facts"]["human"]["sources"]["people"]
    assert {f"label {label}": count for label, count in counts.items()} == {
        name: count for name, count in told.items() if name.startswith("label")
    }
    assert counts == {3: 336, 2: 286, 1: 620, 0: 290}
