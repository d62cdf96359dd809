"""The making of candidates: rankings are fused by reciprocal rank, and some ranks are chosen.

Q queries, N passages, R retrievers, C candidates a query at most.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.retrieval.candidates import Candidates, pad_last

RECIPROCAL_RANK_K = 60


def top_rows(rows: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """The k of `rows` [n] with the highest finite `scores` [n], best first, ties by row."""
    if len(rows) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        equal = equal[np.argsort(rows[equal], kind="stable")][: k - len(above)]
        chosen = np.concatenate([above, equal])
        rows, scores = rows[chosen], scores[chosen]
    finite = np.isfinite(scores)
    rows, scores = rows[finite], scores[finite]
    return rows[np.lexsort((rows, -scores))]


def fuse(rankings: Sequence[np.ndarray], depth: int | None) -> np.ndarray:
    """The first `depth` rows of several rankings, fused by Σ 1 / (60 + rank), ties by row.

    With `depth` None all rows stay. This is reciprocal rank fusion (Cormack, Clarke, Büttcher,
    SIGIR 2009).
    """
    rows = np.unique(np.concatenate(rankings))
    score = np.zeros(len(rows))
    for ranking in rankings:
        ranks = np.arange(1, len(ranking) + 1)
        score[np.searchsorted(rows, ranking)] += 1 / (RECIPROCAL_RANK_K + ranks)
    return rows[np.lexsort((rows, -score))[:depth]]


@dataclass(frozen=True)
class Selection:
    """Which of the fused candidates a teacher scores; configs/base.py explains its settings."""

    depth: int | None
    range_min: int = 0
    range_max: int | None = None
    strategy: str = "top"
    num_candidates: int | None = None

    def choose(self, z_scores: np.ndarray) -> np.ndarray:
        """Places of the fused candidates that stay, ascending.

        The first `range_min` are left out, and those from `range_max` on. Of the rest
        `num_candidates` stay: the first ones ("top"), or those nearest to as many scores at equal
        steps from the highest to the lowest ("spread").

        Args:
          z_scores: [n], the mean of the retrievers' z-scores, by fused rank.
        """
        places = np.arange(len(z_scores))[self.range_min : self.range_max]
        number = self.num_candidates
        if number is None or len(places) <= number:
            return places
        if self.strategy == "top":
            return places[:number]
        scores = z_scores[places].astype(np.float64)
        free = np.ones(len(places), bool)
        for target in np.linspace(scores.max(), scores.min(), number):
            distance = np.where(free, np.abs(scores - target), np.inf)
            free[int(distance.argmin())] = False
        return places[~free]


def z_scores(scores: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """z-scores by each retriever's mean and deviation over the corpus; 0 where none varies.

    Args:
      scores: [..., R, C].
      moments: [..., R, 2].
    """
    mean, deviation = moments[..., 0][..., None], moments[..., 1][..., None]
    varies = deviation > 1e-6
    return np.where(varies, (scores - mean) / np.where(varies, deviation, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What one retriever finds for one query.

    Attributes:
      ranking: int64 [at most depth], rows best first.
      score: a function that gives the float32 scores of any rows.
      moments: mean and deviation of the scores over the whole corpus.
    """

    ranking: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]
    moments: tuple[float, float]


def make_candidates(
    retrieved: Sequence[Iterable[Retrieved]], added: Sequence[Sequence[int]], selection: Selection
) -> Candidates:
    """Fuse what the retrievers found, choose from it, and add what must be there.

    Args:
      retrieved: what each retriever finds for every query; gone through once, query by query.
      added: for each query the rows that are its candidates whether found or not.
      selection: which of the fused candidates stay; rows of `added` stay in any case.
    """
    num_queries, num_retrievers = len(added), len(retrieved)
    rows, ranks, scores = [], [], []
    moments = np.zeros((num_queries, num_retrievers, 2), np.float32)
    by_query = zip(*retrieved, strict=True)
    for query, (added_rows, results) in enumerate(zip(added, by_query, strict=True)):
        fused = fuse([each.ranking for each in results], selection.depth)
        fused_scores = np.stack([each.score(fused) for each in results])
        moments[query] = query_moments = np.array([each.moments for each in results])
        places = selection.choose(z_scores(fused_scores, query_moments).mean(axis=0))
        places = np.union1d(places, np.flatnonzero(np.isin(fused, added_rows)))
        missing = np.setdiff1d(np.asarray(added_rows, np.int64), fused)
        missing_scores = np.stack([each.score(missing) for each in results])
        rows.append(np.concatenate([fused[places], missing]))
        ranks.append(np.concatenate([places + 1, np.zeros(len(missing), np.int64)]))
        scores.append(np.concatenate([fused_scores[:, places], missing_scores], axis=1))
    width = max(map(len, rows), default=0)

    def stacked(arrays: list[np.ndarray], dtype: type, fill: int, shape: tuple) -> np.ndarray:
        padded = [pad_last(np.asarray(array, dtype), width, fill) for array in arrays]
        return np.stack(padded) if padded else np.zeros(shape, dtype)

    return Candidates(
        stacked(rows, np.int32, -1, (0, 0)),
        stacked(ranks, np.int32, 0, (0, 0)),
        stacked(scores, np.float32, 0, (0, num_retrievers, 0)),
        moments,
    )
