"""Tests of data_prep/bm25.py, against bm25s."""

import bm25s
import numpy as np

from data_prep.bm25 import Bm25, tokenize

CORPUS = [
    "Solve a banded linear system of equations",
    "Solve a linear system; the system matrix is sparse",
    "Sort an array along an axis",
    "",
    "Sample from a normal distribution",
]
QUERIES = ["linear system system", "sort the samples", "unheardof", "normal array"]


def test_scores_equal_bm25s():
    reference = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    reference.index(tokenize(CORPUS), show_progress=False)
    scores = Bm25(CORPUS).scores(QUERIES)
    assert scores.shape == (4, 5)
    assert scores.dtype == np.float32
    for words, row in zip(tokenize(QUERIES), scores, strict=True):
        np.testing.assert_allclose(row, reference.get_scores(words), atol=1e-6)


def test_pair_scores_equal_corpus_scores():
    index = Bm25(CORPUS)
    np.testing.assert_allclose(
        index.pair_scores(QUERIES, CORPUS[:4]), np.diag(index.scores(QUERIES)), atol=1e-6
    )


def test_pair_scores_of_a_shortened_text():
    index = Bm25(CORPUS)
    (whole,) = index.pair_scores(["banded system"], [CORPUS[0]])
    (shortened,) = index.pair_scores(["banded system"], ["Solve a linear system of equations"])
    assert 0 < shortened < whole
