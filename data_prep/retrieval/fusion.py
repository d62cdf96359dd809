"""How candidates are made: several retrievers, fused by reciprocal rank, and a choice of ranks.

Q queries, N passages, R retrievers, C candidates a query at most.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.retrieval.candidates import Candidates, pad_last

RECIPROCAL_RANK_K = 60


def top_rows(rows: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Those of `rows` with the k highest finite scores, best first, ties by row; both [n]."""
    if len(rows) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        equal = equal[np.argsort(rows[equal], kind="stable")][: k - len(above)]
        chosen = np.concatenate([above, equal])
        rows, scores = rows[chosen], scores[chosen]
    finite = np.isfinite(scores)
    rows, scores = rows[finite], scores[finite]
    return rows[np.lexsort((rows, -scores))]


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


@dataclass(frozen=True)
class Selection:
    """Which of the fused candidates a teacher scores; see prep.* in configs/base.py."""

    depth: int
    range_min: int = 0
    range_max: int | None = None
    strategy: str = "top"
    num_candidates: int | None = None

    def choose(self, z_scores: np.ndarray) -> np.ndarray:
        """Places of the fused candidates that stay, ascending.

        The first `range_min` go, and those from `range_max` on. Of the rest stay `num_candidates`:
        the first ("top"), or those nearest to so many scores at equal steps from the highest to the
        lowest ("spread").

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
    """Each retriever's scores by its mean and deviation over the corpus; 0 where none varies.

    Args:
      scores: [..., R, C].
      moments: [..., R, 2].
    """
    mean, deviation = moments[..., 0][..., None], moments[..., 1][..., None]
    varies = deviation > 1e-6
    return np.where(varies, (scores - mean) / np.where(varies, deviation, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What one retriever says of one query.

    Attributes:
      ranking: int64 [at most depth], rows best first.
      score: float32 scores of any rows.
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
      retrieved: of each retriever, for each query; gone through once, query by query.
      added: for each query the rows that are in its list whether found or not.
      selection: which of the fused candidates stay; rows of `added` stay in any case.
    """
    num_queries, num_retrievers = len(added), len(retrieved)
    rows, ranks, scores = [], [], []
    moments = np.zeros((num_queries, num_retrievers, 2), np.float32)
    by_query = zip(*retrieved, strict=True)
    for query, (must, of_query) in enumerate(zip(added, by_query, strict=True)):
        fused = fuse([each.ranking for each in of_query], selection.depth)
        fused_scores = np.stack([each.score(fused) for each in of_query])
        moments[query] = exact = np.array([each.moments for each in of_query])
        places = selection.choose(z_scores(fused_scores, exact).mean(axis=0))
        places = np.union1d(places, np.flatnonzero(np.isin(fused, must)))
        missing = np.setdiff1d(np.asarray(must, np.int64), fused)
        missing_scores = np.stack([each.score(missing) for each in of_query])
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
