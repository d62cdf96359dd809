"""Exact search is numpy's; ScaNN's results are exact scores of nearly the same passages."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.retrieval import search as module
from ldx.retrieval.search import Searcher, search


def clustered(num_vectors: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(200, size))
    vectors = centres[rng.integers(200, size=num_vectors)]
    vectors = vectors + 0.5 * rng.normal(size=vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_numpy(queries: np.ndarray, passages: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.astype(np.float64) @ passages.T.astype(np.float64)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_exact_search_is_numpys(monkeypatch: pytest.MonkeyPatch, block: int, k: int) -> None:
    monkeypatch.setattr(module, "PASSAGES_AT_ONCE", block)
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 16)
    # Small whole numbers: exact in float32, with many ties.
    rng = np.random.default_rng(0)
    passages = rng.integers(-2, 3, (250, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (37, 4)).astype(np.float32)
    result = search(queries, passages, k, index="exact")
    scores, rows = by_numpy(queries, passages, k)
    np.testing.assert_array_equal(result.rows, rows)
    np.testing.assert_array_equal(result.scores, scores)
    assert result.rows.dtype == np.int64
    assert result.scores.dtype == np.float32
    assert (result.index, result.recall) == ("exact", None)


def test_exact_search_is_exact_to_float32() -> None:
    vectors = clustered(1000, 64)
    result = search(vectors[:50], vectors, 20)
    np.testing.assert_allclose(result.scores, by_numpy(vectors[:50], vectors, 20)[0], atol=5e-7)
    np.testing.assert_array_equal(result.rows[:, 0], np.arange(50))


@pytest.mark.parametrize("index", ["exact", "scann"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_passages_may_be_memory_mapped(tmp_path: Path, dtype: str, index: str) -> None:
    if index == "scann":
        pytest.importorskip("scann")
    vectors = clustered(500, 16)
    passages = vectors.astype(dtype)
    np.save(tmp_path / "x.npy", passages)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    result = search(vectors[:9], mapped, 5, index=index)
    np.testing.assert_array_equal(result.rows, by_numpy(vectors[:9], passages, 5)[1])
    np.testing.assert_allclose(result.scores, by_numpy(vectors[:9], passages, 5)[0], atol=1e-6)
    assert result.index == index


def test_no_queries_and_unknown_index() -> None:
    vectors = clustered(10, 4)
    assert search(vectors[:0], vectors, 5).rows.shape == (0, 5)
    with pytest.raises(UserError, match="known are auto, exact, scann"):
        search(vectors, vectors, 5, index="hnsw")


def test_embeddings_that_are_not_finite_are_an_error() -> None:
    vectors = clustered(10, 4)
    broken = vectors.copy()
    broken[3] = np.nan
    for queries, passages in ((broken, vectors), (vectors, broken)):
        with pytest.raises(UserError, match="NaN or infinite"):
            search(queries, passages, 10)


def test_scann_brute_force_equals_exact_search() -> None:
    pytest.importorskip("scann")
    vectors = clustered(2000, 32)
    result = search(vectors[:40], vectors, 10, index="scann")
    exact = search(vectors[:40], vectors, 10, index="exact")
    assert (result.index, result.recall) == ("scann", 1.0)
    np.testing.assert_allclose(result.scores, exact.scores, atol=1e-6)
    assert (result.rows == exact.rows).mean() > 0.99


def test_auto_takes_scann_for_many_passages_and_measures_its_recall() -> None:
    pytest.importorskip("scann")
    vectors = clustered(25_300, 64)
    queries, passages = vectors[25_000:], vectors[:25_000]
    result = search(queries, passages, 100)
    exact = search(queries, passages, 100, index="exact")
    common = [len(set(a) & set(b)) for a, b in zip(result.rows, exact.rows, strict=True)]
    assert result.index == "scann"
    assert result.recall is not None
    assert result.recall >= 0.95
    assert np.mean(common) / 100 >= 0.95
    # Rescored: each score is the dot product of its row.
    dots = np.einsum("qd,qkd->qk", queries, passages[result.rows])
    np.testing.assert_allclose(result.scores, dots, atol=1e-5)
    assert (np.diff(result.scores, axis=1) <= 0).all()


def test_a_tree_is_searched_until_its_recall_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scann")
    monkeypatch.setattr(module, "MIN_SCANN_PASSAGES", 1000)
    monkeypatch.setattr(module, "MIN_TREE_PASSAGES", 2000)
    vectors = clustered(6050, 32)
    result = search(vectors[6000:], vectors[:6000], 100)
    assert result.index == "scann"
    assert result.recall is not None
    assert result.recall >= 0.95
    assert all(len(set(rows)) == 100 for rows in result.rows)


def test_auto_goes_back_to_exact_where_recall_is_low(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scann")
    monkeypatch.setattr(module, "MIN_SCANN_PASSAGES", 1000)
    monkeypatch.setattr(module, "_recall", lambda found, exact: 0.5)
    vectors = clustered(1100, 16)
    assert search(vectors[:9], vectors, 5).index == "exact"
    result = search(vectors[:9], vectors, 5, index="scann")
    assert (result.index, result.recall) == ("scann", 0.5)


def test_auto_is_exact_where_a_copy_would_take_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scann")
    monkeypatch.setattr(module, "MIN_SCANN_PASSAGES", 1000)
    monkeypatch.setattr(module, "SCANN_MEMORY_SHARE", 1e-9)
    vectors = clustered(1100, 16)
    assert search(vectors[:9], vectors, 5).index == "exact"
    assert search(vectors[:9], vectors, 5, index="scann").index == "scann"


def test_without_scann(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scann", None)
    monkeypatch.setattr(module, "MIN_SCANN_PASSAGES", 100)
    vectors = clustered(200, 16)
    assert search(vectors[:9], vectors, 5).index == "exact"
    with pytest.raises(UserError, match=r"pip install '.\[scann\]'"):
        search(vectors[:9], vectors, 5, index="scann")


@pytest.mark.parametrize("index", ["exact", "scann"])
def test_excluded_passages_are_never_found(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    if index == "scann":
        pytest.importorskip("scann")
    monkeypatch.setattr(module, "PASSAGES_AT_ONCE", 70)
    vectors = clustered(500, 16)
    queries = vectors[:40]
    excluded = np.random.default_rng(0).random(500) < 0.5
    searcher = Searcher(vectors, 300, index, sample_queries=queries, excluded=excluded)
    included = np.flatnonzero(~excluded)
    assert searcher.k == len(included)
    scores, places = by_numpy(queries, vectors[included], len(included))
    for some in (slice(0, 7), slice(7, 40)):  # one index, several sets of queries
        result = searcher.search(queries[some])
        np.testing.assert_array_equal(np.sort(result.rows), np.sort(included[places[some]]))
        np.testing.assert_allclose(result.scores, scores[some], atol=1e-6)
