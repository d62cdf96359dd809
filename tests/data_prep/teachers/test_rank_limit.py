"""Queries that `prep.rank_limit` drops are not scored by a model."""

from typing import ClassVar

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_prep.lists.prepared import load_lists
from data_prep.lists.results import TAUGHT_FILES
from data_prep.queries.query import load_queries, query_shards
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.run import STAGES
from ldx.common.errors import UserError
from ldx.common.files import read_json
from tests.data_prep.toy import make_collection, make_config, run_stages


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return make_collection(tmp_path_factory.mktemp("prep") / "toy")


class CountingTeacher:
    """A teacher that scores a pair by its texts, and remembers the queries it has seen."""

    fingerprint = "counting"
    seen: ClassVar[set[str]] = set()
    num_pairs: ClassVar[int] = 0

    def score(self, pairs):
        CountingTeacher.seen |= set(pairs.query_ids)
        CountingTeacher.num_pairs += len(pairs)
        texts = (pairs.queries, pairs.passages)
        return np.array([len(query) - 1 / len(text) for query, text in zip(*texts, strict=True)])


def test_no_model_scores_a_query_whose_own_passage_is_not_found(
    collection, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.setattr("data_prep.teachers.scoring.make_teacher", lambda *_: CountingTeacher())
    monkeypatch.setattr("data_prep.score.make_teacher", lambda *_: CountingTeacher())
    config = make_config(collection, tiny_bert)
    config.prep.teachers = ConfigDict({"model": {"kind": "cross_encoder", "model": "none"}})
    config.prep.retrievers = ConfigDict({"student": {"kind": "dense"}})  # a random model
    config.prep.query_types = ("sentence", "title")
    config.prep.queries = "extractive+human"
    config.prep.rank_limit = 2
    config.prep.require_own_first = False
    config.prep.shard_size = 25
    workspace = run_stages(config, tmp_path, STAGES[:5])
    passing = set()
    for part in query_shards(workspace):
        candidates = Candidates.load(candidate_paths(workspace)[part.name])
        for query, rows, ranks in zip(
            part.queries, candidates.rows, candidates.fused_rank, strict=True
        ):
            own = ranks[rows == query.row].tolist()
            if query.row < 0 or (own and 0 < own[0] <= 2):
                passing.add(query.query_id)
    queries = load_queries(workspace)
    assert passing < {query.query_id for query in queries}
    assert CountingTeacher.seen == passing
    limited = CountingTeacher.num_pairs
    facts = read_json(workspace.prep / "score.json")["counts"]["model"]
    assert facts == {"pairs": limited, "not scored": 0}
    yields = TAUGHT_FILES.read_result(workspace)["facts"]["title"]["yields"]
    titles = {query.query_id for query in queries if query.query_type == "title"}
    assert yields["queries"] == len(titles) > yields["own passage found"] == len(titles & passing)
    before = {path: load_lists(path).rows for path in TAUGHT_FILES.paths(workspace).values()}

    config.prep.rank_limit = None  # all others are scored, in whole shards
    run_stages(config, tmp_path, STAGES[:5])
    everything = CountingTeacher.num_pairs
    assert CountingTeacher.seen == {query.query_id for query in queries}
    config.prep.rank_limit = 2  # what was scored serves again, and the lists are the same
    run_stages(config, tmp_path, STAGES[:5])
    config.prep.rank_limit = 5
    run_stages(config, tmp_path, STAGES[:5])
    assert CountingTeacher.num_pairs == everything
    config.prep.rank_limit = 2
    run_stages(config, tmp_path, STAGES[:5])
    for path, rows in before.items():
        np.testing.assert_array_equal(load_lists(path).rows, rows)


def test_a_type_of_which_no_query_is_scored_has_no_lists(
    collection, tiny_bert, tmp_path, monkeypatch
):
    """Also where the scores of several teachers would have to be scaled."""
    monkeypatch.setattr(
        "data_prep.lists.taught.may_have_lists",
        lambda limit, queries, candidates: np.zeros(len(queries), bool),
    )
    config = make_config(collection, tiny_bert)
    hybrid = {"kind": "hybrid", "bm25": "bm25", "dense": "student"}
    config.prep.teachers = ConfigDict(
        {"a": {**hybrid, "dense_weight": 0.3}, "b": {**hybrid, "dense_weight": 0.7}}
    )
    with pytest.raises(UserError, match=r"no lists: .*'own passage found': 0"):
        run_stages(config, tmp_path)
