"""Runs of BM25 and of hybrids over a whole corpus."""

import logging

import numpy as np
import pytest

from data_prep.retrieval.bm25 import Bm25
from data_prep.teachers.corpus_runs import Baseline, DenseEmbeddings, Hybrid, find_runs
from ldx.records.schema import Passage

TEXTS = ["a banded matrix", "a dense matrix", "sort an array", "roots of a function"]


@pytest.fixture
def runs(tmp_path, caplog):
    """The runs of some queries, with the log of making them."""

    def runs(*queries):
        index = Bm25.open_or_build(tmp_path / "index", TEXTS, key="k", language="english")
        passages = [Passage(f"d{i}", "", text) for i, text in enumerate(TEXTS)]
        rng = np.random.default_rng(0)
        embeddings = DenseEmbeddings(rng.normal(size=(len(queries), 8)), rng.normal(size=(4, 8)))
        hybrid = Hybrid("student", 0.5, 1.0)
        by_id = {f"q{i}": query for i, query in enumerate(queries)}
        with caplog.at_level(logging.WARNING):
            return find_runs(by_id, passages, index, {"student": embeddings}, [hybrid])

    return runs


def test_bm25_does_not_rank_what_shares_no_word(runs, caplog):
    """The hybrid does: its dense half scores every passage."""
    found = runs("matrix", "矩阵", "sort")
    assert set(found[Baseline.BM25]["q0"]) == {"d0", "d1"}
    assert found[Baseline.BM25]["q1"] == {}
    assert set(found[Baseline.BM25]["q2"]) == {"d2"}
    assert all(score > 0 for run in found[Baseline.BM25].values() for score in run.values())
    assert all(len(run) == 4 for run in found[Baseline.TEACHER].values())
    assert "BM25 finds nothing" not in caplog.text


def test_a_user_is_told_that_bm25_finds_nothing(runs, caplog):
    runs("矩阵", "排序", "sort")
    assert "BM25 finds nothing for 2 of 3 test queries" in caplog.text
