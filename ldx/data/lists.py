"""The lists of a global batch as arrays.

Shapes: Q lists (queries), L list entries, P distinct passages.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ldx.data.schema import ListRecord

Array = Any  # numpy on the host, jax on the device


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """The padded sizes of every global batch."""

    num_queries: int
    list_size: int
    num_passages: int

    @property
    def num_texts(self) -> int:
        """The most texts a batch can hold."""
        return self.num_queries + self.num_passages


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lists:
    """The lists of a batch; whatever `where` leaves out is padding."""

    list_index: Array  # int32 [Q, L] into the batch's distinct passages; entry 0 is the positive
    teacher_scores: Array  # float32 [Q, L], calibrated, higher is better
    labels: Array  # int32 [Q, L], -1 unjudged
    where: Array  # bool [Q, L]


def pad_lists(records: Sequence[ListRecord], size: BatchSize) -> tuple[Lists, np.ndarray]:
    """Lists as padded arrays over the distinct passages, and the rows of those passages.

    A list longer than `size.list_size` keeps its first entries.
    """
    shape = (size.num_queries, size.list_size)
    rows = np.zeros(shape, np.int64)
    lists = Lists(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
        np.full(shape, -1, np.int32),
        np.zeros(shape, bool),
    )
    for i, record in enumerate(records):
        n = min(len(record.rows), size.list_size)
        rows[i, :n] = record.rows[:n]
        lists.labels[i, :n] = record.labels[:n]
        lists.where[i, :n] = True
        if len(record.teacher_scores):
            lists.teacher_scores[i, :n] = record.teacher_scores[:n]
    distinct, index = np.unique(rows[lists.where], return_inverse=True)
    lists.list_index[lists.where] = index
    return lists, distinct
