"""Lists of a query log, from the log to the records."""

import numpy as np
import pytest

from data_prep.corpora.passages import load_passages
from data_prep.preflight.dry_run import estimate
from data_prep.queries.query import load_queries
from ldx.common.errors import UserError
from ldx.eval import beir
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet
from tests.data_prep.toy import make_collection, make_config, run_stages


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return make_collection(tmp_path_factory.mktemp("prep") / "toy")


def log_config(collection, tiny_bert, tmp_path, lines=()):
    config = make_config(collection, tiny_bert)
    config.prep.queries = "log"
    config.prep.log = str(tmp_path / "log.txt")
    nouns = ("matrix", "protein", "wing", "drug")
    queries = [f"{noun} of system{i}" for i in range(0, 60, 4) for noun in nouns]
    (tmp_path / "log.txt").write_text("\n".join([*queries, *lines]))
    return config


def test_lists_of_a_log_are_the_teachers_best_of_the_whole_corpus(collection, tiny_bert, tmp_path):
    # The test judges the first, and the second is nearly that.
    config = log_config(
        collection, tiny_bert, tmp_path, ["which matrix sorts system0", "which matrix sort system0"]
    )
    config.prep.list_size = None
    config.prep.candidate_depth = "auto"
    config.prep.min_top_score_percentile = None
    workspace = run_stages(config, tmp_path / "work")
    manifest = Manifest.read(workspace.records)
    assert manifest.judges == {"log": ["the teacher"]}
    (teacher,) = manifest.teachers
    assert teacher["dense_weight"] == 0.6
    assert manifest.yields["score"]["hybrid"]["choice"] == "the default for a log"
    dropped = manifest.yields["generate_queries"]["dropped"]
    assert dropped == {"log: holds a test query": 1, "log: nearly a test query": 1}
    lists = {split: list(ListSet(workspace.records, split)) for split in ("train", "dev")}
    assert sum(map(len, lists.values())) == 60
    assert len(lists["dev"])
    for record in lists["train"] + lists["dev"]:
        assert (
            sorted(record.rows) == np.flatnonzero(~load_passages(workspace).roles.excluded).tolist()
        )
        assert (np.diff(record.raw_scores) <= 1e-6).all()  # also where calibration clips
        assert (record.labels == -1).all()
        assert (record.source_row, record.query_type) == (-1, "log")


def test_long_lists_of_a_log_beside_other_queries(collection, tiny_bert, tmp_path):
    config = log_config(collection, tiny_bert, tmp_path, ["random index7 in the passage"])
    config.prep.queries = "log+extractive"
    config.prep.query_types = ("title",)
    config.prep.list_size = 200  # more than the corpus has
    config.prep.candidate_depth = "auto"
    config.prep.max_queries = 70
    config.prep.rank_limit = None
    config.prep.require_own_first = False
    workspace = run_stages(config, tmp_path / "work")
    queries = load_queries(workspace)
    assert len(queries) == 70
    assert {query.query_type for query in queries} == {"log", "title"}
    for split in ("train", "dev"):
        for record in ListSet(workspace.records, split):
            assert len(record.rows) == len(set(record.rows.tolist())) == 57
            assert (record.rows[0] == record.source_row) == (record.query_type == "title")


def test_a_log_with_test_queries_alone_is_told(collection, tiny_bert, tmp_path):
    config = log_config(collection, tiny_bert, tmp_path)
    (tmp_path / "log.txt").write_text("which matrix sorts system0\n")
    with pytest.raises(UserError, match=r"no training queries: .*holds a test query"):
        run_stages(config, tmp_path / "work")


def test_peoples_dev_judgments_choose_the_weight_for_a_log(collection, tiny_bert, tmp_path):
    """The log is the training split, whose queries stand in no dev list of people."""
    dataset = beir.load_dataset(collection, "train")
    dev = {f"q{i}": {f"d{i}": 1} for i in range(60) if i % 4}
    train = {query_id: docs for query_id, docs in dataset.qrels.items() if query_id not in dev}
    train |= {"q1": {"d1": 1}, "q4": {"d4": 1}, "q8": {"d8": 1}}
    texts = dataset.queries | {f"q{i}": f"number{i} of system{i}" for i in range(60)}
    root = tmp_path / "with_dev"
    beir.write_dataset(root, dataset.corpus, texts, {"train": train, "dev": dev})
    config = make_config(root, tiny_bert)
    config.prep.queries = "log"
    config.prep.log = "split:train"
    config.prep.dev_fraction = 0.5
    config.prep.min_top_score_percentile = None
    workspace = run_stages(config, tmp_path / "work")
    manifest = Manifest.read(workspace.records)
    assert manifest.judges == {"log": ["the teacher"], "human_dev": ["people"]}
    assert manifest.yields["score"]["hybrid"]["choice"] == "judgments of dev queries"
    assert {q.query_id for q in load_queries(workspace) if q.query_type == "log"} == {
        "log:q4",
        "log:q8",
    }
    estimated = {cost.what: cost.number for cost in estimate(workspace)}
    assert estimated["queries of the log"] == 3
