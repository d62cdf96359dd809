"""Tests of data_prep/candidates.py."""

import numpy as np

from data_prep import candidates as module
from data_prep.bm25 import Bm25
from data_prep.candidates import Candidates, find_candidates, fuse, top_rows

TEXTS = [f"word{i % 7} word{i % 5} common text number{i}" for i in range(40)]
QUERIES = ["word1 number11", "word3 word4 common", "nothing known"]


def embeddings(num, seed):
    values = np.random.default_rng(seed).normal(size=(num, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def mine(depth=5, excluded=(), added=((0,), (0,), (0,))):
    return find_candidates(
        QUERIES,
        Bm25(TEXTS),
        embeddings(3, 0),
        embeddings(40, 1),
        depth=depth,
        excluded=excluded,
        added=added,
    )


def test_fuse_is_reciprocal_rank():
    fused = fuse([np.array([3, 1, 2]), np.array([1, 4])], 10)
    score = {1: 1 / 62 + 1 / 61, 3: 1 / 61, 4: 1 / 62, 2: 1 / 63}
    assert fused.tolist() == sorted(score, key=lambda row: -score[row])
    assert fuse([np.array([2]), np.array([1])], 1).tolist() == [1]


def test_top_rows_breaks_ties_by_row_and_skips_infinite():
    scores = np.array([1.0, 3.0, -np.inf, 3.0])
    assert top_rows(scores, 10).tolist() == [1, 3, 0]


def test_candidates_carry_scores_and_moments_of_the_whole_corpus():
    found = mine()
    lexical, dense = Bm25(TEXTS).scores(QUERIES), embeddings(3, 0) @ embeddings(40, 1).T
    for query in range(3):
        valid = found.rows[query] >= 0
        rows = found.rows[query, valid]
        assert len(set(rows.tolist())) == len(rows)
        assert 0 in rows
        np.testing.assert_allclose(found.bm25[query, valid], lexical[query, rows], atol=1e-6)
        np.testing.assert_allclose(found.dense[query, valid], dense[query, rows], atol=1e-6)
        assert (found.fused_rank[query, :5] == np.arange(1, 6)).all()
        wanted = [f(x[query]) for x in (lexical, dense) for f in (np.mean, np.std)]
        np.testing.assert_allclose(found.moments[query], wanted, atol=1e-6)
    # No word of the last query is known: the dense ranking alone.
    assert found.rows[2, :5].tolist() == top_rows(dense[2], 5).tolist()


def test_added_passages_are_no_finds_and_excluded_ones_are_absent():
    plain = mine()
    excluded = plain.rows[0, :2].tolist()
    absent = next(r for r in range(40) if r not in plain.rows[0])
    found = mine(excluded=excluded, added=((absent, 0), (0,), (0,)))
    assert not set(excluded) & set(found.rows.ravel().tolist())
    column = found.rows[0].tolist().index(absent)
    assert found.fused_rank[0, column] in (0, *range(1, 6))
    assert (found.fused_rank[found.rows < 0] == 0).all()


def test_chunks_change_nothing(monkeypatch, tmp_path):
    whole = mine()
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 1)
    chunked = mine()
    for name, values in vars(whole).items():
        np.testing.assert_allclose(values, getattr(chunked, name), atol=1e-6, err_msg=name)
    whole.save(tmp_path / "c.npz")
    loaded = Candidates.load(tmp_path / "c.npz")
    assert all((vars(loaded)[name] == values).all() for name, values in vars(whole).items())
