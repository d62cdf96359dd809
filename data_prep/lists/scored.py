"""Lists made of scored candidates: filters, de-noising, entries that stay.

Q queries, C candidates a query. What was not scored, padding included, is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.lists.prepared import UNJUDGED, Lists
from data_prep.pipeline.workspace import Workspace, needed
from data_prep.retrieval.candidates import pad_last
from ldx.common.files import read_json


@dataclass(frozen=True)
class Filters:
    """What a list must be to stay; see prep.* in configs/base.py. None, False or 0: off."""

    list_size: int
    rank_limit: int | None = None
    require_own_first: bool = False
    min_top_score_percentile: float | None = None


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
      scores: float32 [Q, C], the teacher's.
      fused_rank: int32 [Q, C], the retriever's rank from 1; 0 where a passage was added.
      is_own: bool [Q, C], the passage a query was made from, once a row at most.
      filters: those that are on.
      human: queries by people have no passage of their own; those filters do not apply.

    Returns:
      bool [Q], and the yield by filter.
    """
    keep = np.ones(len(scores), bool)
    yields = {"queries": len(scores)}
    known = np.isfinite(scores)
    by_rank = np.where(known, scores, -np.inf)
    top = by_rank.max(axis=1, initial=-np.inf)

    def narrow(name: str, passes: np.ndarray) -> None:
        nonlocal keep
        keep = keep & passes
        yields[name] = int(keep.sum())

    if filters.rank_limit and not human:
        own_rank = np.where(is_own, fused_rank, 0).max(axis=1, initial=0)
        narrow("own passage found", (own_rank > 0) & (own_rank <= filters.rank_limit))
    if filters.require_own_first and not human:
        own_score = np.where(is_own, by_rank, -np.inf).max(axis=1, initial=-np.inf)
        narrow("own passage first", np.isfinite(own_score) & (own_score >= top))
    narrow("full list", known.sum(axis=1) >= filters.list_size)
    if filters.min_top_score_percentile and keep.any():
        kept = scores[keep]
        least = np.percentile(kept[np.isfinite(kept)], filters.min_top_score_percentile)
        narrow("top score", top >= least)
    return keep, yields


@dataclass(frozen=True)
class Denoising:
    """When a candidate counts as a false negative and leaves its list; None: off.

    Margins are those of sentence-transformers' `mine_hard_negatives`, where a negative must score
    at most positive − absolute_margin, and at most positive − relative_margin · |positive|: of a
    positive's score of −2, 0.05 allows −2.1 at most, as of 2 it allows 1.9.

    Attributes:
      absolute_margin: under the positive's score.
      relative_margin: as a share of the positive's score.
      max_score: the highest score of a negative.
    """

    absolute_margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether any rule is."""
        return any(value is not None for value in vars(self).values())

    def removes(self, scores: np.ndarray, positive: np.ndarray) -> dict[str, np.ndarray]:
        """What each rule would remove, bool [Q, C] by the rule's name.

        Args:
          scores: [Q, C].
          positive: [Q], the positives' scores.
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


def list_columns(scores: np.ndarray, grades: np.ndarray, size: int, *, human: bool) -> np.ndarray:
    """Columns of one query's candidates that become its list, the positive first.

    The rest stands in the teacher's order. A human query's positive has the highest grade and of
    those the best score; all its other relevant passages are in the list too, for outside of it
    they would count as negatives, and as many unjudged ones as fill it up, half of `size` at least.

    Args:
      scores: float32 [C].
      grades: int [C], the human grades, or 1 for the passage a query was made from; else 0.
      size: entries wanted.
      human: whether the grades are human.

    Returns:
      Columns: at most `size`, or of a human query more; none where no relevant passage has a score.
    """
    order = np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")
    order = order[np.isfinite(scores[order])]
    if not (grades[order] > 0).any():
        return np.zeros(0, np.int64)
    positive = min(order, key=lambda c: (-grades[c], -scores[c]))
    others = order[order != positive]
    if human:
        num_relevant = int((grades[others] > 0).sum())
        unjudged = others[grades[others] <= 0][: max(size - 1 - num_relevant, size // 2)]
        others = others[(grades[others] > 0) | np.isin(others, unjudged)]
        return np.array([positive, *others], np.int64)
    return np.array([positive, *others[: size - 1]], np.int64)


def scored_lists(
    numbers: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    raw: Sequence[np.ndarray],
    grades: np.ndarray,
    size: int,
    yields: dict[str, int],
    *,
    human: bool,
) -> Lists | None:
    """Lists of `size` entries, of human queries maybe more; None where none is full.

    Args:
      numbers: [Q], the places of the queries among all.
      rows: [Q, C], their candidates.
      scores: [Q, C], calibrated and fused.
      raw: further scores [Q, C] that are kept beside them.
      grades: [Q, C], as `list_columns` takes them.
      size: entries wanted.
      yields: gets the number of queries that have a positive, and of those that are full.
      human: whether the grades are human.
    """
    columns = [list_columns(scores[i], grades[i], size, human=human) for i in range(len(numbers))]
    yields["a positive with a score"] = sum(len(each) > 0 for each in columns)
    yields["full list of what is left"] = sum(len(each) >= size for each in columns)
    chosen = np.array([i for i, each in enumerate(columns) if len(each) >= size], np.int64)
    if not len(chosen):
        return None
    width = max(len(columns[i]) for i in chosen)
    at = np.stack([pad_last(columns[i], width, -1) for i in chosen])

    def taken(values: np.ndarray, padding: float) -> np.ndarray:
        found = np.take_along_axis(values[chosen], np.maximum(at, 0), axis=1)
        return np.where(at >= 0, found, np.asarray(padding, found.dtype))

    is_judged = human & (taken(grades, 0) > 0)
    # The passage a query was made from is the positive by its place, not by a judgment.
    return Lists(
        numbers[chosen],
        taken(rows, -1).astype(np.int64),
        np.where(is_judged, taken(grades, 0), UNJUDGED).astype(np.int32),
        taken(scores, np.nan),
        np.stack([taken(each, np.nan) for each in raw], axis=1),
    )


def positive_columns(scores: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """The column of each query's positive, int64 [Q]: highest grade, of those the best score."""
    best = np.where(np.isfinite(scores), grades, -1)
    is_best = best == best.max(axis=1, keepdims=True)
    return np.where(is_best & np.isfinite(scores), scores, -np.inf).argmax(axis=1)


def own_columns(rows: np.ndarray, own_rows: np.ndarray) -> np.ndarray:
    """Where each query's own passage stands among its candidates, bool [Q, C]; own_rows [Q]."""
    own = np.asarray(own_rows)[:, None]
    return (rows == own) & (own >= 0)


RESULT_NAME = "calibration.json"


def read_result(workspace: Workspace) -> dict[str, Any]:
    """What calibration.json says."""
    return read_json(needed(workspace.prep / RESULT_NAME, "calibrate"))


def list_paths(workspace: Workspace) -> dict[str, Path]:
    """The lists of each query type."""
    return {
        name: workspace.prep / "lists" / f"{name}.npz" for name in read_result(workspace)["types"]
    }
