"""Lists of entries, and the files in which stages hand them on: one for each query type."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldx.common.files import atomic_write

UNJUDGED = -1


class Entry(NamedTuple):
    """An entry of a list: a row of the passage set, and its label."""

    row: int
    label: int


@dataclass(frozen=True, eq=False)
class PreparedLists:
    """The lists of one query type; G lists of at most L entries, T teachers.

    Attributes:
      numbers: int64 [G], the places of their queries among all.
      rows: int64 [G, L], entry 0 the positive; -1 is padding, at the end.
      labels: int32 [G, L], grades of people or labels of prep.graded; -1 is unjudged.
      teacher_scores: float32 [G, L], calibrated and fused; NaN is padding. It is [G, 0] where no
        teacher scored.
      raw_scores: float32 [G, T, L], each teacher's scores as they were; NaN is padding.
    """

    numbers: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    teacher_scores: np.ndarray
    raw_scores: np.ndarray

    def __len__(self) -> int:
        """The number of lists."""
        return len(self.numbers)

    def take(self, chosen: np.ndarray) -> "PreparedLists":
        """Some of the lists, by their places or by a mask."""
        return PreparedLists(*(values[chosen] for values in vars(self).values()))


@dataclass(frozen=True, eq=False)
class TypeLists:
    """The lists that were made for the queries of one type.

    Attributes:
      lists: the lists; None where no query has one.
      num_queries: how many queries there were.
      facts: what is reported, for the file of results and the manifest.
    """

    lists: PreparedLists | None
    num_queries: int
    facts: dict[str, Any]

    @property
    def num_lists(self) -> int:
        """The number of queries that have a list."""
        return 0 if self.lists is None else len(self.lists)


def save_lists(path: Path, lists: PreparedLists) -> None:
    """Write the lists of a query type atomically."""
    with atomic_write(path, "wb") as file:
        np.savez(file, **vars(lists))


def load_lists(path: Path) -> PreparedLists:
    """Read what `save_lists` wrote."""
    with np.load(path) as arrays:
        return PreparedLists(**{name: arrays[name] for name in arrays.files})


def labelled_lists(numbers: Sequence[int], entries: Sequence[Sequence[Entry]]) -> PreparedLists:
    """Lists that have labels and no teacher scores: one of `entries` for each of `numbers`."""
    num_lists, width = len(entries), max(map(len, entries))
    rows = np.full((num_lists, width), -1, np.int64)
    labels = np.full((num_lists, width), UNJUDGED, np.int32)
    for place, of_list in enumerate(entries):
        rows[place, : len(of_list)] = [entry.row for entry in of_list]
        labels[place, : len(of_list)] = [entry.label for entry in of_list]
    return PreparedLists(
        np.array(numbers, np.int64),
        rows,
        labels,
        teacher_scores=np.zeros((num_lists, 0), np.float32),
        raw_scores=np.zeros((num_lists, 0, width), np.float32),
    )
