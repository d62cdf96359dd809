"""Candidates of queries: BM25 and the dense retriever, fused by reciprocal rank.

Q queries, N passages, C candidates a query at most, D dimensions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.bm25 import Bm25
from ldx.files import atomic_write
from ldx.progress import progress_bar

RECIPROCAL_RANK_K = 60
SCORES_AT_ONCE = 2**24  # of one chunk of queries against the corpus


@dataclass(frozen=True, eq=False)
class Candidates:
    """What two retrievers found for each query.

    Attributes:
      rows: int32 [Q, C], best first by fused rank, then those added; -1 is padding.
      fused_rank: int32 [Q, C], from 1; 0 where the passage was added, not found.
      bm25: float32 [Q, C].
      dense: float32 [Q, C], dot products of the embeddings.
      moments: float32 [Q, 4], over the WHOLE corpus: BM25 mean and deviation, dense mean and
        deviation.
    """

    rows: np.ndarray
    fused_rank: np.ndarray
    bm25: np.ndarray
    dense: np.ndarray
    moments: np.ndarray

    def save(self, path: Path) -> None:
        """Write as an .npz file, atomically."""
        with atomic_write(path, "wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Candidates":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def moments(bm25: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Means and deviations of each query's scores over the corpus, float32 [Q, 4]."""
    columns = [bm25.mean(1), bm25.std(1), dense.mean(1), dense.std(1)]
    return np.stack(columns, axis=1).astype(np.float32)


def score_corpus(
    queries: Sequence[str],
    bm25: Bm25,
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    description: str,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Scores of all passages, chunk by chunk of queries.

    Yields:
      The chunk's first query, its BM25 scores float32 [chunk, N], its dense scores.
    """
    step = max(1, SCORES_AT_ONCE // len(passage_embeddings))
    with progress_bar(total=len(queries), desc=description, unit=" queries") as bar:
        for start in range(0, len(queries), step):
            stop = min(start + step, len(queries))
            dense = query_embeddings[start:stop] @ passage_embeddings.T
            yield start, bm25.scores(queries[start:stop]), dense
            bar.update(stop - start)


def top_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest finite scores, best first, ties by row; scores [N]."""
    k = min(k, len(scores))
    best = np.argpartition(-scores, k - 1)[:k]
    best = best[np.isfinite(scores[best])]
    return best[np.lexsort((best, -scores[best]))]


def fuse(rankings: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """Fuse rankings of rows: Σ 1 / (60 + rank), the first `depth`, ties by row.

    Cormack, Clarke, Büttcher (SIGIR 2009).
    """
    rows = np.unique(np.concatenate(rankings))
    score = np.zeros(len(rows))
    for ranking in rankings:
        ranks = np.arange(1, len(ranking) + 1)
        score[np.searchsorted(rows, ranking)] += 1 / (RECIPROCAL_RANK_K + ranks)
    return rows[np.lexsort((rows, -score))[:depth]]


def find_candidates(
    queries: Sequence[str],
    bm25: Bm25,
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    *,
    depth: int,
    excluded: Sequence[int],
    added: Sequence[Sequence[int]],
) -> Candidates:
    """Fuse both retrievers to `depth` candidates a query.

    Args:
      queries: Q texts.
      bm25: an index of the N passages.
      query_embeddings: float32 [Q, D].
      passage_embeddings: float32 [N, D].
      depth: candidates a query, and the length of the rankings that are fused.
      excluded: rows that are nobody's candidates.
      added: for each query the rows that are in its list whether found or not.
    """
    width = depth + max(len(rows) for rows in added)
    num_queries = len(queries)
    rows = np.full((num_queries, width), -1, np.int32)
    fused_rank = np.zeros((num_queries, width), np.int32)
    bm25_scores, dense_scores = np.zeros((2, num_queries, width), np.float32)
    all_moments = np.zeros((num_queries, 4), np.float32)
    barred = np.asarray(excluded, np.int64)
    chunks = score_corpus(queries, bm25, query_embeddings, passage_embeddings, "mining")
    for start, lexical, dense in chunks:
        all_moments[start : start + len(dense)] = moments(lexical, dense)
        for i in range(len(dense)):
            query = start + i
            # Passages that share no word with the query are not ranked by BM25.
            by_words = np.where(lexical[i] > 0, lexical[i], -np.inf)
            by_meaning = dense[i].copy()
            by_words[barred] = by_meaning[barred] = -np.inf
            found = fuse([top_rows(by_words, depth), top_rows(by_meaning, depth)], depth)
            missing = [row for row in added[query] if row not in set(found.tolist())]
            chosen = np.concatenate([found, np.asarray(missing, np.int64)]).astype(np.int32)
            size = len(chosen)
            rows[query, :size] = chosen
            fused_rank[query, : len(found)] = np.arange(1, len(found) + 1)
            bm25_scores[query, :size] = lexical[i, chosen]
            dense_scores[query, :size] = dense[i, chosen]
    return Candidates(rows, fused_rank, bm25_scores, dense_scores, all_moments)
