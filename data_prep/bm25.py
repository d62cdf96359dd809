"""BM25 scores of many queries against a whole corpus at once, by one sparse product."""

import logging
from collections.abc import Sequence

import bm25s
import numpy as np
import scipy.sparse

K1 = 1.5
B = 0.75


def tokenize(texts: Sequence[str]) -> list[list[str]]:
    """Lower-case words of two letters or more, English stop-words left out."""
    return bm25s.tokenize(list(texts), return_ids=False, show_progress=False)


class Bm25:
    """An index of a corpus with Lucene's BM25, k1 = 1.5 and b = 0.75.

    score(q, p) = Σ_t tf(t, q) · idf(t) · tf(t, p) / (tf(t, p) + k1 · (1 − b + b · |p| / mean |p|))
    """

    def __init__(self, texts: Sequence[str]):
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        tokens = tokenize(texts)
        self.num_passages = len(tokens)
        self._mean_length = max(1.0, float(np.mean([len(words) for words in tokens])))
        self.vocabulary = {word: i for i, word in enumerate(sorted({w for t in tokens for w in t}))}
        counts = self._counts(tokens)
        # csr [passages, words] → how many passages a word stands in.
        frequency = np.bincount(counts.indices, minlength=len(self.vocabulary))
        self.idf = np.log1p((self.num_passages - frequency + 0.5) / (frequency + 0.5))
        self._weights = self._saturated(counts)

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """BM25 scores, float32 [num_queries, num_passages]."""
        return (self._counts(tokenize(queries)) @ self._weights.T).toarray().astype(np.float32)

    def pair_scores(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The score of each query for its own text, which may be outside the corpus; float32 [N].

        The corpus keeps its word frequencies and its mean length.
        """
        products = self._counts(tokenize(queries)).multiply(
            self._saturated(self._counts(tokenize(texts)))
        )
        return np.asarray(products.sum(axis=1), np.float32).ravel()

    def _counts(self, tokens: list[list[str]]) -> scipy.sparse.csr_array:
        """How often each known word stands in each text; lengths count the unknown ones too."""
        rows, columns = [], []
        for row, words in enumerate(tokens):
            known = [self.vocabulary[word] for word in words if word in self.vocabulary]
            rows += [row] * len(known)
            columns += known
        shape = (len(tokens), len(self.vocabulary))
        ones = np.ones(len(rows), np.float64)
        matrix = scipy.sparse.csr_array((ones, (rows, columns)), shape=shape)
        matrix.sum_duplicates()
        return matrix

    def _saturated(self, counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
        length = counts.sum(axis=1)
        norm = K1 * (1 - B + B * length / self._mean_length)
        row_of = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        data = counts.data / (counts.data + norm[row_of]) * self.idf[counts.indices]
        return scipy.sparse.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)
