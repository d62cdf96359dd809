"""Lists as stages hand them on, of one query type a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldx.common.files import atomic_write

UNJUDGED = -1
NEW_LIST = "lists"  # the yield of queries that have one

Entry = tuple[int, int]
"""A row of the passage set and its label."""


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of one query type; G lists of at most L entries, T teachers.

    Attributes:
      numbers: int64 [G], the places of their queries among all.
      rows: int64 [G, L], entry 0 the positive; -1 is padding, at the end.
      labels: int32 [G, L], grades of people or of prep.graded; -1 unjudged.
      teacher_scores: float32 [G, L], calibrated and fused; NaN is padding. [G, 0]: no teacher.
      raw_scores: float32 [G, T, L], likewise.
    """

    numbers: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    teacher_scores: np.ndarray
    raw_scores: np.ndarray


def save_lists(path: Path, lists: Lists) -> None:
    """Write the lists of a type atomically."""
    with atomic_write(path, "wb") as file:
        np.savez(file, **vars(lists))


def load_lists(path: Path) -> Lists:
    """Read what `save_lists` wrote."""
    with np.load(path) as arrays:
        return Lists(**{name: arrays[name] for name in arrays.files})


def labelled_lists(numbers: Sequence[int], entries: Sequence[Sequence[Entry]]) -> Lists:
    """Lists of labels alone, without a teacher: `entries` of each of the queries `numbers`."""
    num, width = len(entries), max(map(len, entries))
    rows = np.full((num, width), -1, np.int64)
    labels = np.full((num, width), UNJUDGED, np.int32)
    for place, each in enumerate(entries):
        rows[place, : len(each)], labels[place, : len(each)] = zip(*each, strict=True)
    none = np.zeros((num, 0), np.float32)
    return Lists(np.array(numbers, np.int64), rows, labels, none, np.zeros((num, 0, width), "f4"))
