"""Tests of data_prep/queries/coverage.py: queries that reach passages evenly."""

from collections import Counter

import numpy as np

from data_prep.corpora.passages import load_passages
from data_prep.pipeline.workspace import open_workspace
from data_prep.queries.coverage import REACHED, choose_evenly, sample_evenly
from data_prep.queries.query import Query
from data_prep.retrieval.bm25 import Bm25
from tests.data_prep.toy import make_collection, make_config, run_stages


def slowly(reached, weights, number):
    """The choice of `choose_evenly`, with the worth of every query computed at every turn."""
    times, chosen = Counter(), []
    while len(chosen) < min(number, len(reached)):
        worth = {
            place: round(weights[place] * sum(1 / (1 + times[row]) for row in rows), 9)
            for place, rows in enumerate(reached)
            if place not in chosen
        }
        chosen.append(max(worth, key=worth.get))
        times.update(reached[chosen[-1]].tolist())
    return chosen


def test_the_query_that_is_worth_most_comes_next():
    rng = np.random.default_rng(0)
    reached = [rng.choice(30, rng.integers(0, 6), replace=False) for _ in range(40)]
    weights = rng.integers(1, 5, 40).tolist()
    for number in (1, 7, 25, 50):
        assert choose_evenly(reached, weights, number) == slowly(reached, weights, number)


def test_passages_are_reached_more_evenly_than_at_random(tiny_bert, tmp_path):
    """A log in which most queries are about the same few passages."""
    config = make_config(make_collection(tmp_path / "toy"), tiny_bert)
    run_stages(config, tmp_path / "work", ["corpus"])
    workspace = open_workspace(config, tmp_path / "work")
    passages = load_passages(workspace)
    rng = np.random.default_rng(1)
    popular = [int(60 * rng.random() ** 4) for _ in range(400)]
    texts = dict.fromkeys(
        f"trial{row} system{row} index{row} word{i}" for i, row in enumerate(popular)
    )
    queries = [Query(f"log:{i}", "log", t, -1, "", {}, t) for i, t in enumerate(texts)]
    counts = {query.query_id: 1 for query in queries}
    sample = sample_evenly(workspace, passages, queries, counts, 40)
    assert sample == sample_evenly(workspace, passages, queries[::-1], counts, 40)
    assert len({query.query_id for query in sample}) == 40
    index = Bm25.open_or_build(
        workspace.prep / "bm25", passages.texts, key=passages.key, language="english"
    )

    def times_reached(chosen):
        times = np.zeros(60, int)
        for matches in index.match_all([query.text for query in chosen]):
            best = np.argsort(-matches.scores, kind="stable")[:REACHED]
            times[matches.rows[best]] += 1
        return times[~passages.roles.excluded]

    evenly, at_random = times_reached(sample), times_reached(queries[:40])
    assert (evenly > 0).mean() > (at_random > 0).mean() + 0.1
    assert evenly.std() < 0.7 * at_random.std()
    assert evenly.max() < at_random.max()


def test_a_query_that_was_typed_often_comes_before_its_equals(tiny_bert, tmp_path):
    config = make_config(make_collection(tmp_path / "toy"), tiny_bert)
    workspace = run_stages(config, tmp_path / "work", ["corpus"])
    rows = np.flatnonzero(load_passages(workspace).roles.gets_queries)[:20].tolist()
    texts = [f"trial{row} system{row}" for row in 2 * rows]
    queries = [Query(f"log:{i}", "log", t, -1, "", {}, t) for i, t in enumerate(texts)]
    counts = {query.query_id: 50 if place >= 20 else 1 for place, query in enumerate(queries)}
    sample = sample_evenly(workspace, load_passages(workspace), queries, counts, 20)
    assert {query.query_id for query in sample} == {f"log:{i}" for i in range(20, 40)}
