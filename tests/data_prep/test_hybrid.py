"""Tests of data_prep/hybrid.py and of the choice of the weight in data_prep/score.py."""

import ir_measures
import numpy as np
import pytest

from data_prep.candidates import Candidates
from data_prep.generate_queries import Query
from data_prep.hybrid import WEIGHTS, best_weight, hybrid_scores, ndcg_at_10
from data_prep.mine import Cloze
from data_prep.score import choose_weight


def test_hybrid_is_the_weighted_sum_of_z_scores():
    rng = np.random.default_rng(0)
    bm25, dense = rng.random((2, 3, 50), np.float32)
    moments = np.stack([bm25.mean(1), bm25.std(1), dense.mean(1), dense.std(1)], 1)
    wanted = 0.3 * (dense - dense.mean(1, keepdims=True)) / dense.std(1, keepdims=True)
    wanted += 0.7 * (bm25 - bm25.mean(1, keepdims=True)) / bm25.std(1, keepdims=True)
    np.testing.assert_allclose(hybrid_scores(bm25, dense, moments, 0.3), wanted, atol=1e-5)
    # One score a query, as for the cloze test.
    np.testing.assert_allclose(
        hybrid_scores(bm25[:, 0], dense[:, 0], moments, 0.3), wanted[:, 0], atol=1e-5
    )


def test_a_retriever_that_says_nothing_counts_nothing():
    moments = np.array([[0.0, 0.0, 0.0, 1.0]], np.float32)
    scores = hybrid_scores(np.zeros((1, 2)), np.array([[1.0, 2.0]]), moments, 0.5)
    assert scores.tolist() == [[0.5, 1.0]]


def test_ndcg_equals_trec_eval():
    rng = np.random.default_rng(0)
    scores, gains = rng.random((5, 30)), rng.integers(0, 3, (5, 30))
    qrels = [
        ir_measures.Qrel(str(q), str(d), int(gains[q, d])) for q in range(5) for d in range(30)
    ]
    run = [ir_measures.ScoredDoc(str(q), str(d), scores[q, d]) for q in range(5) for d in range(30)]
    wanted = {
        m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)
    }
    np.testing.assert_allclose(ndcg_at_10(scores, gains), [wanted[str(q)] for q in range(5)])


def test_the_weight_is_a_half_unless_queries_say_otherwise():
    rng = np.random.default_rng(0)
    noise = rng.random((len(WEIGHTS), 100))
    assert best_weight(np.full((len(WEIGHTS), 100), 0.5)) == 0.5
    clear = 0.01 * noise + np.abs(np.array(WEIGHTS) - 0.8)[:, None] * -1
    assert best_weight(clear) == 0.8


@pytest.fixture
def verbatim():
    """40 queries whose BM25 finds its own passage only by the sentence that was lifted."""
    num, width = 40, 12
    rng = np.random.default_rng(0)
    rows = np.tile(np.arange(width, dtype=np.int32), (num, 1))
    bm25 = rng.normal(size=(num, width)).astype(np.float32)
    dense = rng.normal(size=(num, width)).astype(np.float32)
    bm25[:, 0], dense[:, 0] = 9.0, 3.0
    moments = np.tile(np.array([0, 1, 0, 1], np.float32), (num, 1))
    queries = [Query(f"q{i}", "sentence", "text", 0, "sentence", {}) for i in range(num)]
    found = Candidates(rows, rows + 1, bm25, dense, moments)
    numbers = np.arange(num, dtype=np.int32)
    cloze = Cloze(numbers, np.full(num, -1.0, np.float32), np.full(num, 2.9, np.float32))
    return queries, found, cloze, numbers


def test_the_lifted_sentence_does_not_speak_for_bm25(verbatim):
    weight, curve, num_used = choose_weight(*verbatim)
    assert num_used == 40
    assert weight > 0.6
    assert curve[1.0] > curve[0.0]


def test_human_judgments_come_first(verbatim):
    queries, found, cloze, numbers = verbatim
    judged = [Query(q.query_id, "human", q.text, -1, "", {0: 1}) for q in queries]
    found.dense[:, 0] = -9.0
    weight, _, _ = choose_weight(judged, found, cloze, numbers)
    assert weight < 0.5


def test_too_few_queries_leave_the_default(verbatim):
    queries, found, cloze, numbers = verbatim
    few = Cloze(cloze.queries[:5], cloze.bm25[:5], cloze.dense[:5])
    assert choose_weight(queries, found, few, numbers[:5]) == (0.5, {}, 0)
