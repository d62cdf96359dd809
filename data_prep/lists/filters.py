"""Filters of queries by their scored candidates, and the removal of false negatives.

Q queries, C candidates a query. What was not scored, padding included, is NaN.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Filters:
    """Conditions on the list of a query, off where None, False or 0; see configs/base.py.

    `least_entries` is how many candidates must have a score.
    """

    least_entries: int
    rank_limit: int | None = None
    require_own_first: bool = False
    min_top_score_percentile: float | None = None


@dataclass(frozen=True, eq=False)
class Filtered:
    """The queries of a type that pass all filters.

    Attributes:
      keep: bool [Q].
      yields: how many queries there were, and how many were left after each filter, by its name.
    """

    keep: np.ndarray
    yields: dict[str, int]


def apply_filters(
    scores: np.ndarray,
    fused_rank: np.ndarray,
    is_own: np.ndarray,
    filters: Filters,
    *,
    own_passage: bool,
) -> Filtered:
    """The queries of one type that keep their lists.

    Args:
      scores: float32 [Q, C], the teacher's scores.
      fused_rank: int32 [Q, C], the fused rank from 1; 0 where a passage was added.
      is_own: bool [Q, C], true for the passage a query was made from, at most one in a row.
      filters: the conditions.
      own_passage: whether the queries were made from passages; where people wrote them, conditions
        on the own passage do not apply.
    """
    keep = np.ones(len(scores), bool)
    yields = {"queries": len(scores)}
    is_scored = np.isfinite(scores)
    comparable = np.where(is_scored, scores, -np.inf)
    top = comparable.max(axis=1, initial=-np.inf)

    def narrow(name: str, passes: np.ndarray) -> None:
        nonlocal keep
        keep = keep & passes
        yields[name] = int(keep.sum())

    if filters.rank_limit and own_passage:
        own_rank = np.where(is_own, fused_rank, 0).max(axis=1, initial=0)
        narrow("own passage found", (own_rank > 0) & (own_rank <= filters.rank_limit))
    if filters.require_own_first and own_passage:
        own_score = np.where(is_own, comparable, -np.inf).max(axis=1, initial=-np.inf)
        narrow("own passage first", np.isfinite(own_score) & (own_score >= top))
    narrow("full list", is_scored.sum(axis=1) >= filters.least_entries)
    if filters.min_top_score_percentile and keep.any():
        remaining = scores[keep]
        least = np.percentile(remaining[np.isfinite(remaining)], filters.min_top_score_percentile)
        narrow("top score", top >= least)
    return Filtered(keep, yields)


@dataclass(frozen=True, eq=False)
class Denoised:
    """Scores from which those of false negatives were removed.

    Attributes:
      scores: [Q, C]; NaN where a candidate was removed.
      yields: how many entries each rule removed, by the name of the count.
    """

    scores: np.ndarray
    yields: dict[str, int]


@dataclass(frozen=True)
class Denoising:
    """Rules by which a candidate counts as a false negative and leaves its list; None: off.

    Margins are those of sentence-transformers' `mine_hard_negatives`, where a negative must score
    at most positive − absolute_margin, and at most positive − relative_margin · |positive|: beside
    a positive with the score −2, 0.05 allows −2.1 at most; beside one with 2, it allows 1.9.

    Attributes:
      absolute_margin: how far a negative must score below the positive.
      relative_margin: the same as a share of the positive's score.
      max_score: the highest score that a negative may have.
    """

    absolute_margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None

    def removes(self, scores: np.ndarray, positive: np.ndarray) -> dict[str, np.ndarray]:
        """Candidates that each rule would remove, bool [Q, C] by the rule's name.

        Args:
          scores: [Q, C], of the candidates.
          positive: [Q], of the positives.
        """
        positive = positive[:, None]
        removed = {}
        if self.absolute_margin is not None:
            removed["absolute_margin"] = scores > positive - self.absolute_margin
        if self.relative_margin is not None:
            limit = positive - self.relative_margin * np.abs(positive)
            removed["relative_margin"] = scores > limit
        if self.max_score is not None:
            removed["max_score"] = scores > self.max_score
        return removed

    def apply(self, scores: np.ndarray, grades: np.ndarray) -> Denoised:
        """The scores without those candidates that are too good to be negatives.

        Args:
          scores: [Q, C], of the candidates.
          grades: int [Q, C]; over 0 for relevant passages, which stay.
        """
        columns = positive_columns(scores, grades)[:, None]
        positive = np.take_along_axis(scores, columns, axis=1)[:, 0]
        removed = {
            name: mask & (grades <= 0) for name, mask in self.removes(scores, positive).items()
        }
        by_any = np.zeros(scores.shape, bool)
        for mask in removed.values():
            by_any |= mask
        return Denoised(
            np.where(by_any, np.float32(np.nan), scores),
            {f"entries over {name}": int(mask.sum()) for name, mask in removed.items()},
        )


def positive_columns(scores: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """The column of each query's positive, int64 [Q]: the best score among the highest grade."""
    best = np.where(np.isfinite(scores), grades, -1)
    is_best = best == best.max(axis=1, keepdims=True)
    return np.where(is_best & np.isfinite(scores), scores, -np.inf).argmax(axis=1)
