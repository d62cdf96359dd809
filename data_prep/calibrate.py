"""Scores of a teacher brought to [0, 1], and the filters that lists must pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOW, HIGH = 1.0, 99.0  # percentiles that become 0 and 1


@dataclass(frozen=True)
class Scale:
    """(score − low) / (high − low), clipped to [0, 1]."""

    low: float
    high: float

    @classmethod
    def fit(cls, scores: np.ndarray) -> "Scale":
        """Take the 1st and 99th percentile of `scores`."""
        low, high = np.percentile(scores.astype(np.float64), [LOW, HIGH])
        return cls(float(low), float(high))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores, float32; 0.5 everywhere when all scores were equal."""
        if self.high <= self.low:
            return np.full(scores.shape, 0.5, np.float32)
        scaled = (scores.astype(np.float64) - self.low) / (self.high - self.low)
        return np.clip(scaled, 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Filters:
    """What a list must be to stay; see prep.* in configs/base.py. None, False or 0: off."""

    list_size: int
    rank_limit: int | None
    require_own_first: bool
    min_top_score_percentile: float | None


def apply_filters(
    scores: np.ndarray,
    fused_rank: np.ndarray,
    is_own: np.ndarray,
    filters: Filters,
    *,
    human: bool,
) -> tuple[np.ndarray, dict[str, int]]:
    """Which lists of one query type stay, and how many did after each filter.

    Args:
      scores: float32 [Q, C], the teacher's; padding is -inf.
      fused_rank: int32 [Q, C], the retriever's rank from 1; 0 where a passage was added.
      is_own: bool [Q, C], the passage a query was made from, once a row at most.
      filters: those that are on.
      human: queries by people have no passage of their own; those filters do not apply.

    Returns:
      bool [Q], and the yield by filter.
    """
    keep = np.ones(len(scores), bool)
    yields = {"queries": len(scores)}

    def narrow(name: str, passes: np.ndarray) -> None:
        nonlocal keep
        keep = keep & passes
        yields[name] = int(keep.sum())

    if filters.rank_limit and not human:
        own_rank = np.where(is_own, fused_rank, 0).max(axis=1)
        narrow("own passage found", (own_rank > 0) & (own_rank <= filters.rank_limit))
    if filters.require_own_first and not human:
        own_score = np.where(is_own, scores, -np.inf).max(axis=1)
        narrow("own passage first", own_score >= scores.max(axis=1))
    narrow("full list", np.isfinite(scores).sum(axis=1) >= filters.list_size)
    if filters.min_top_score_percentile and keep.any():
        kept = scores[keep]
        least = np.percentile(kept[np.isfinite(kept)], filters.min_top_score_percentile)
        narrow("top score", scores.max(axis=1) >= least)
    return keep, yields


def list_columns(scores: np.ndarray, grades: np.ndarray, size: int, *, human: bool) -> np.ndarray:
    """Columns of one query's candidates that become its list, the positive first.

    The rest stands in the teacher's order. A human query's positive has the highest grade and of
    those the best score; its other relevant passages fill at most half of the list, the rest of
    them is left out, for no relevant passage may be a negative.

    Args:
      scores: float32 [C]; padding is -inf.
      grades: int [C], the human grades, or 1 for the passage a query was made from; else 0.
      size: entries wanted.
      human: whether the grades are human.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    positive = min(order, key=lambda c: (-grades[c], -scores[c]))
    others = [c for c in order if c != positive]
    if human:
        relevant = [c for c in others if grades[c] > 0][: size // 2 - 1 if size > 1 else 0]
        chosen = set(relevant)
        unjudged = [c for c in others if grades[c] <= 0][: size - 1 - len(relevant)]
        chosen |= set(unjudged)
        others = [c for c in others if c in chosen]
    return np.array([positive, *others[: size - 1]], np.int64)


def own_columns(rows: np.ndarray, own_rows: Sequence[int]) -> np.ndarray:
    """Where each query's own passage stands among its candidates, bool [Q, C]."""
    own = np.asarray(own_rows)[:, None]
    return (rows == own) & (own >= 0)
