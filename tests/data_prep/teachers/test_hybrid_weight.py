"""Tests of data_prep/teachers/hybrid_weight.py."""

import ir_measures
import numpy as np
import pytest

from data_prep.queries.query import Query
from data_prep.retrieval.bm25 import Bm25
from data_prep.retrieval.candidates import Candidates
from data_prep.retrieval.fusion import z_scores
from data_prep.teachers.hybrid_weight import (
    WEIGHTS,
    HybridColumns,
    best_weight,
    cloze_ndcg,
    cloze_queries,
    hybrid_scores,
    judged_ndcg,
    ndcg_at_10,
    ndcg_by_weight,
)

COLUMNS = HybridColumns(bm25=0, dense=1)


def test_hybrid_is_the_weighted_sum_of_z_scores():
    rng = np.random.default_rng(0)
    scores = rng.random((3, 2, 50), np.float32)
    moments = np.stack([scores.mean(2), scores.std(2)], axis=2)
    expected = (scores - scores.mean(2, keepdims=True)) / scores.std(2, keepdims=True)
    z = z_scores(scores, moments)
    np.testing.assert_allclose(
        hybrid_scores(z[:, 0], z[:, 1], 0.3), 0.3 * expected[:, 1] + 0.7 * expected[:, 0], atol=1e-5
    )


def test_ndcg_equals_trec_eval():
    rng = np.random.default_rng(0)
    scores, gains = rng.random((5, 30)), rng.integers(0, 3, (5, 30))
    qrels = [
        ir_measures.Qrel(str(q), str(d), int(gains[q, d])) for q in range(5) for d in range(30)
    ]
    run = [ir_measures.ScoredDoc(str(q), str(d), scores[q, d]) for q in range(5) for d in range(30)]
    expected = {
        m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)
    }
    np.testing.assert_allclose(ndcg_at_10(scores, gains), [expected[str(q)] for q in range(5)])


def test_the_weight_is_a_half_unless_queries_say_otherwise():
    rng = np.random.default_rng(0)
    noise = rng.random((len(WEIGHTS), 100))
    assert best_weight(np.full((len(WEIGHTS), 100), 0.5)) == 0.5
    clear = 0.01 * noise + np.abs(np.array(WEIGHTS) - 0.8)[:, None] * -1
    assert best_weight(clear) == 0.8


SENTENCES = [f"The solver number{i} sorts rows." for i in range(40)]
PASSAGES = [f"{SENTENCES[i]} A matrix of kind{i} is banded and large here." for i in range(40)]


class Model:
    """A dense retriever that knows passages by their second sentence, and queries likewise."""

    def embed(self, texts, kind):
        embeddings = np.zeros((len(texts), 41), np.float32)
        for row, text in zip(embeddings, texts, strict=True):
            kinds = [w for w in text.replace(".", "").split() if w.startswith(("kind", "number"))]
            row[int(kinds[-1].lstrip("kindumber")) if kinds else 40] = 1
        return embeddings


@pytest.fixture
def verbatim(tmp_path):
    """Queries cut out of passages: their words, which BM25 finds, are gone in the cloze test."""
    bm25, model = Bm25.open_or_build(tmp_path, PASSAGES, key="p", language="english"), Model()
    queries = [
        Query(f"q{i}", "sentence", text.strip("."), i, text, {}, f"d{i}")
        for i, text in enumerate(SENTENCES)
    ]
    rows = np.tile(np.arange(40, dtype=np.int32), (40, 1))
    texts = [q.text for q in queries]
    lexical = np.stack([m.scores_of(np.arange(40)) for m in bm25.match_all(texts)])
    dense = model.embed(texts, "query") @ model.embed(PASSAGES, "passage").T
    scores = np.stack([lexical, dense], axis=1)
    moments = np.stack([scores.mean(2), scores.std(2)], axis=2)
    return queries, Candidates(rows, rows + 1, scores, moments), bm25, model


def test_the_lifted_sentence_does_not_speak_for_bm25(verbatim):
    queries, candidates, bm25, model = verbatim
    z = z_scores(candidates.scores, candidates.moments)
    gains = np.eye(40)
    with_sentence = ndcg_by_weight(z[:, 0], z[:, 1], candidates.rows < 0, gains).mean(axis=1)
    assert with_sentence[0] == pytest.approx(1)  # BM25 alone is perfect
    shortened = cloze_queries(queries, PASSAGES, seed=0)
    assert len(shortened) == 40
    assert all("number" not in text for text in shortened.values())
    ndcg = cloze_ndcg(queries, shortened, candidates, bm25, model, COLUMNS)
    assert ndcg.shape == (11, 40)
    assert ndcg[0].mean() < 0.5
    assert ndcg[-1].mean() == pytest.approx(1)


def test_queries_that_were_not_cut_out_have_no_cloze():
    queries = [Query("q", "keywords", "solver rows", 0, "", {}, "d")]
    assert cloze_queries(queries, PASSAGES, seed=0) == {}


def test_human_judgments_speak_for_themselves(verbatim):
    _, candidates, _, _ = verbatim
    judged = [Query(f"q{i}", "human", "x", -1, "", {i: 1}, f"d{i}") for i in range(40)]
    candidates.scores[:, 1] = -np.eye(40)
    ndcg = judged_ndcg(judged, candidates, COLUMNS)
    assert ndcg[0].mean() == pytest.approx(1)
    assert ndcg[-1].mean() < 0.1
