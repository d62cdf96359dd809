"""How much of a corpus training lists touch: which share of its passages stands high in some list.

What a student learns from lists of teacher scores depends on how many queries there are and on how
many passages they are about, so both are told before training.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

FEW_QUERIES = 500
"""A rule of thumb: 648 queries of a log moved nDCG@10 of MiniLM's query tower by 0.047 on SciFact.
Queries about passages that none of them is about did not move for certain."""

MANY_QUERIES = 10_000
"""With so many queries, the share of a large corpus that they touch says little."""

FEW_PASSAGES = 0.25
"""Queries that put a smaller share of the passages among the first TOP of some list leave most of
the corpus as it was."""

TOP = 10


@dataclass(frozen=True)
class Coverage:
    """How many passages the training lists touch.

    Attributes:
      lists: the number of training lists, one for each query.
      passages: the number of passages of the collection that lists may hold.
      first: how many of them are the first entry of some list.
      first_10: how many are among the first TOP entries of some list.
      anywhere: how many are in some list.
    """

    lists: int
    passages: int
    first: int
    first_10: int
    anywhere: int

    @classmethod
    def of_lists(cls, lists: Iterable[np.ndarray], may_hold: np.ndarray) -> "Coverage":
        """Count what lists touch.

        Args:
          lists: the rows of each list, best first.
          may_hold: bool [N], whether lists may hold a passage of the collection; rows from N on are
            no part of it.
        """
        num_rows, num_lists = len(may_hold), 0
        first, top, anywhere = (np.zeros(num_rows, bool) for _ in range(3))
        for rows in lists:
            num_lists += 1
            for mask, of_list in ((first, rows[:1]), (top, rows[:TOP]), (anywhere, rows)):
                mask[of_list[of_list < num_rows]] = True
        counts = (int((mask & may_hold).sum()) for mask in (first, top, anywhere))
        return cls(num_lists, int(may_hold.sum()), *counts)

    @classmethod
    def from_yields(cls, yields: dict[str, Any]) -> "Coverage | None":
        """What `data_prep` left in a manifest's yields; None where there is nothing."""
        of_stage = yields.get("write_tfrecords")
        values = of_stage.get("coverage") if isinstance(of_stage, dict) else None
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or set(values) != set(names):
            return None
        whole = all(type(value) is int and value >= 0 for value in values.values())
        return cls(**values) if whole else None

    def sentence(self) -> str:
        """The numbers in one sentence."""
        return (
            f"{self.lists:,} training queries put {self._share(self.first_10)} of the "
            f"{self.passages:,} passages among the first {TOP} of some list, "
            f"{self._share(self.first)} first, and {self._share(self.anywhere)} anywhere"
        )

    def advice(self) -> str:
        """What is too little, and what helps; "" where nothing is."""
        problems = []
        if self.lists < FEW_QUERIES:
            problems.append(f"there are few training queries (under {FEW_QUERIES})")
        if self.first_10 < FEW_PASSAGES * self.passages and self.lists < MANY_QUERIES:
            problems.append(
                f"they touch few passages (under {FEW_PASSAGES:.0%} are among the first {TOP} of "
                "some list)"
            )
        if not problems:
            return ""
        return (
            f"{' and '.join(problems)}; more queries about other passages would help, best of all "
            "those that people type (config.prep.queries=log)"
        )

    def _share(self, number: int) -> str:
        return f"{number / max(1, self.passages):.0%}"
