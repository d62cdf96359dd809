"""Tests of data_prep/lists/human_dev.py, and of what stages do with people's dev queries."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_prep.lists.human_dev import human_dev_entries
from data_prep.lists.prepared import load_lists
from data_prep.lists.results import list_files
from data_prep.pipeline.order import STAGES, stages_of
from data_prep.queries.query import load_queries, query_shards
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.teachers.scores import load_scores, score_paths
from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.eval import beir
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import ListSet, PassageSet
from tests.data_prep.toy import make_collection, make_config, run_stages

BEFORE_BASELINES = STAGES[: STAGES.index("baselines")]
DEV = {
    f"q{i}": {f"d{i}": 2, f"d{(i + 30) % 60}": 1, f"d{(i + 9) % 60}": 0} for i in range(1, 60, 2)
}


@pytest.mark.parametrize(
    ("judged", "others"),
    [
        ({4: 0, 2: 1, 3: 2}, [*range(5, 22)]),  # up to 20
        ({row: 1 for row in range(3, 18)}, [*range(18, 28)]),  # 10 at least
    ],
)
def test_all_that_people_judged_and_the_first_found_of_the_others(judged, others):
    entries = human_dev_entries(judged, np.arange(3 if 3 in judged else 0, 50))
    best_first = sorted(judged, key=lambda row: -judged[row])
    assert [row for row, _ in entries] == [*best_first, *others]
    assert [label for _, label in entries] == [judged.get(row, -1) for row, _ in entries]


def test_without_a_retriever_there_are_no_others():
    assert human_dev_entries({7: 0, 8: 1}, np.zeros(0, np.int64)) == [(8, 1), (7, 0)]


@pytest.fixture(scope="module")
def workspace(tiny_bert, tmp_path_factory):
    """Two teachers, the hybrid and a file without scores of dev queries; 30 queries of dev.tsv."""
    folder = tmp_path_factory.mktemp("human_dev")
    dataset = beir.load_dataset(make_collection(folder / "toy"), "test")
    queries = {query_id: f"which passage is trial{query_id[1:]}" for query_id in DEV}
    qrels = {"dev": DEV, "test": dataset.qrels}
    beir.write_dataset(folder / "judged", dataset.corpus, {**dataset.queries, **queries}, qrels)
    config = make_config(folder / "judged", tiny_bert)
    config.prep.num_held_out = 0
    config.prep.query_types = ("title",)
    workspace = run_stages(config, folder / "work", ["corpus", "generate_queries"])
    lines = [
        f"{query.query_id}\td{row}\t{row * 7 % 60 + 99 * (row == query.row)}"
        for query in load_queries(workspace)
        for row in range(60)
        if query.query_type != HUMAN_DEV
    ]
    (folder / "scores.tsv").write_text("\n".join(lines) + "\n")
    config.prep.teachers.file = ConfigDict({"kind": "run_file", "path": str(folder / "scores.tsv")})
    return run_stages(config, folder / "work", BEFORE_BASELINES)


def records_of(workspace, split):
    return list(ListSet(workspace.records, split))


def test_a_list_has_all_judgments_whatever_teachers_know(workspace):
    passages = PassageSet(workspace.records)
    records = [r for r in records_of(workspace, "dev") if r.query_type == HUMAN_DEV]
    assert len(records) == len(DEV)
    for record in records:
        judged = record.rows[record.labels >= 0]
        names = [passages[row].doc_id for row in judged.tolist()]
        assert dict(zip(names, record.labels[:3].tolist(), strict=True)) == DEV[record.query_id]
        assert record.labels.tolist() == [2, 1, 0] + [-1] * 17
        assert len(set(record.rows.tolist())) == 20
        assert len(record.teacher_scores) == len(record.raw_scores) == 0
    assert HUMAN_DEV not in {record.query_type for record in records_of(workspace, "train")}


def test_the_others_are_the_retrievers_first(workspace):
    lists = load_lists(list_files(workspace).paths(workspace)[HUMAN_DEV])
    parts = [Candidates.load(path) for path in candidate_paths(workspace).values()]
    candidates, queries = Candidates.concatenate(parts), load_queries(workspace)
    for rows, number in zip(lists.rows, lists.numbers, strict=True):
        judged = queries[number].judged
        ranked = candidates.rows[number][candidates.fused_rank[number] > 0].tolist()
        assert rows[3:].tolist() == [row for row in ranked if row not in judged][:17]


def test_teachers_score_none_of_them_but_they_choose_the_hybrids_weight(workspace):
    names = [part.name for part in query_shards(workspace)]
    assert "human_dev-00000" in names
    for files in score_paths(workspace).values():
        assert list(files) == [name for name in names if not name.startswith(HUMAN_DEV)]
    counts = read_json(workspace.prep / "score.json")["counts"]
    scores = [load_scores(path) for path in score_paths(workspace)["file"].values()]
    assert counts["file"]["not scored"] == 0
    assert counts["pairs"] == sum(int(np.isfinite(each).sum()) for each in scores)
    assert counts["hybrid"]["dev queries for the weight"] == len(DEV)


def test_graded_lists_have_the_same(workspace):
    config = workspace.config.copy_and_resolve_references()
    config.prep.list_source = "graded"
    config.prep.graded = ConfigDict({"own": {"kind": "judged"}, "far": {"kind": "mined", "num": 2}})
    graded = run_stages(config, workspace.workdir, ["grade"])
    taught_lists = load_lists(list_files(workspace).paths(workspace)[HUMAN_DEV])
    graded_lists = load_lists(list_files(graded).paths(graded)[HUMAN_DEV])
    for name, values in vars(taught_lists).items():
        np.testing.assert_array_equal(getattr(graded_lists, name), values)


def test_lists_of_judged_passages_alone(workspace, tmp_path):
    """Nothing is mined for such lists, so a dev query's list has its judged passages only."""
    config = workspace.config.copy_and_resolve_references()
    config.prep.queries, config.prep.human_split, config.eval.split = "human", "test", "none"
    config.prep.list_source = "graded"
    config.prep.graded = ConfigDict({"people": {"kind": "judged"}})
    config.prep.dev_fraction = 0.5
    dev, test = (beir.load_dataset(workspace.dataset, split) for split in ("dev", "test"))
    two_labels = {query_id: grades | {"d3": 0} for query_id, grades in test.qrels.items()}
    config.data.root = str(tmp_path / "two_labels")
    beir.write_dataset(
        tmp_path / "two_labels",
        dev.corpus,
        {**dev.queries, **test.queries},
        {"dev": DEV, "test": two_labels},
    )
    graded = run_stages(config, tmp_path / "work")
    assert "mine" not in stages_of(graded.settings)
    records = [r for r in records_of(graded, "dev") if r.query_type == HUMAN_DEV]
    assert [record.labels.tolist() for record in records] == [[2, 1, 0]] * len(DEV)


def test_they_are_no_dev_lists_for_losses(workspace):
    config = workspace.config.copy_and_resolve_references()
    config.prep.dev_fraction = 1e-9
    with pytest.raises(
        UserError, match=r"no dev lists: .* lists, not counting those of prep.human_dev_split"
    ):
        run_stages(config, workspace.workdir, ["write_tfrecords"])
    run_stages(workspace.config, workspace.workdir, BEFORE_BASELINES)


def test_they_alone_are_nothing_to_train_on(workspace, tmp_path):
    config = workspace.config.copy_and_resolve_references()
    config.prep.queries, config.prep.human_split = "human", "test"  # the words of test queries
    with pytest.raises(UserError, match="no training queries"):
        run_stages(config, tmp_path, ["corpus", "generate_queries"])


def test_without_dev_queries_lists_are_made_anew(workspace):
    """The scores stay the same bytes, though the places of the queries change."""
    config = workspace.config.copy_and_resolve_references()
    del config.unlock().prep.teachers.hybrid
    run_stages(config, workspace.workdir, BEFORE_BASELINES)
    before = (workspace.prep / "scores.json").read_bytes()
    config.prep.human_dev_split = ""
    run_stages(config, workspace.workdir, BEFORE_BASELINES)
    assert (workspace.prep / "scores.json").read_bytes() == before
    records = [record for split in ("train", "dev") for record in records_of(workspace, split)]
    assert {record.query_type for record in records} == {"title"}
    assert all(record.rows[0] == record.source_row for record in records)
    run_stages(workspace.config, workspace.workdir, BEFORE_BASELINES)


def test_a_dev_split_that_is_trained_on_is_told(workspace, tmp_path, caplog):
    config = workspace.config.copy_and_resolve_references()
    config.prep.queries, config.prep.human_split = "human", "dev"
    warning = "config.prep.human_dev_split='dev' is ignored"
    queries = load_queries(run_stages(config, tmp_path, ["corpus", "generate_queries"]))
    assert {query.query_type for query in queries} == {"human"}
    assert caplog.text.count(warning) == 1
    caplog.clear()
    config.prep.human_dev_split = ""
    run_stages(config, tmp_path, ["corpus", "generate_queries"])
    assert "is ignored" not in caplog.text
