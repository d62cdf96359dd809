"""What embed once saves, by corpus size and batch size: tokens are counted, nothing is computed.

R, the reference's padded tokens; S, those of every list entry on its own, but sorted by length into
ldx's micro-batches; O, ldx's. R / O = (R / S) · (S / O): the gains of less padding, and of each
distinct passage once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldx.data.batching import (
    Shapes,
    best_lengths,
    cut_microbatches,
    default_microbatch_tokens,
    default_num_lengths,
)
from tests.benchmarks.lists import BenchmarkLists, synthetic_lists
from tests.benchmarks.reference import Settings, padded_tokens
from tests.benchmarks.step_ours import batch_size, text_lengths
from tests.benchmarks.table import Case, Row

SETTINGS = Settings()
CORPUS_SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
BATCH_SIZES = (64, 256, 1024, 4096)
LIST_SIZE = 20
MEAN_LENGTH = 120
NUM_BATCHES = 8
"""Counted of each size, if there are lists for so many: a small batch's last micro-batch varies."""


@dataclass(frozen=True)
class Point:
    """One batch size on one corpus; slots and tokens are sums over some batches, as R, S and O."""

    num_passages: int
    num_queries: int
    num_slots: int
    num_distinct: int
    reference_tokens: int  # R
    sorted_tokens: int  # S
    our_tokens: int  # O

    @property
    def ratio(self) -> float:
        """How many times fewer tokens ldx embeds."""
        return self.reference_tokens / self.our_tokens

    @property
    def padding(self) -> float:
        """The part of it that comes from sorting by length."""
        return self.reference_tokens / self.sorted_tokens

    @property
    def deduplication(self) -> float:
        """The part of it that comes from embedding every distinct passage once."""
        return self.sorted_tokens / self.our_tokens

    def row(self) -> Row:
        """The row of the JSON."""
        extra: dict[str, Any] = {
            "num_passages": self.num_passages,
            "num_queries": self.num_queries,
            "deduplication": self.deduplication,
            "padding": self.padding,
            "slots_per_distinct_passage": self.num_slots / self.num_distinct,
        }
        case = f"{self.num_passages:,} passages, Q={self.num_queries}"
        ours, reference = float(self.our_tokens), float(self.reference_tokens)
        return Case("padded tokens", case, ours, reference, "tokens", extra=extra).row()


def shapes_on_accelerator(lists: BenchmarkLists, num_queries: int) -> Shapes:
    """The micro-batches that ldx chooses for these texts on one GPU with enough memory."""
    size = batch_size(lists, num_queries)
    limits = SETTINGS.query_max_length, SETTINGS.passage_max_length
    lengths = best_lengths(
        text_lengths(lists, size, *limits), max(limits), default_num_lengths("gpu")
    )
    return Shapes.make(lengths[-1], default_microbatch_tokens("gpu"), lengths=lengths)


def count(lists: BenchmarkLists, num_queries: int) -> Point:
    """The tokens of batches of the first lists, the next, and so on; at most NUM_BATCHES."""
    shapes = shapes_on_accelerator(lists, num_queries)
    starts = range(0, len(lists) - num_queries + 1, num_queries)[:NUM_BATCHES]
    counts = [
        _count_batch(lists, np.arange(start, start + num_queries), shapes) for start in starts
    ]
    return Point(len(lists.passages), num_queries, *np.sum(counts, axis=0).tolist())


def _count_batch(
    lists: BenchmarkLists, numbers: np.ndarray, shapes: Shapes
) -> tuple[int, int, int, int, int]:
    """Slots, distinct passages, R, S and O of one batch."""
    passages = lists.passage_lengths(SETTINGS.passage_max_length)
    queries = lists.query_lengths(SETTINGS.query_max_length)
    rows, texts = lists.rows[numbers], lists.query[numbers]
    distinct = np.unique(rows)
    slots = np.concatenate([queries[texts], passages[rows].ravel()])
    once = np.concatenate([queries[np.unique(texts)], passages[distinct]])
    return (
        rows.size,
        len(distinct),
        padded_tokens(lists, numbers, SETTINGS),
        _tokens(slots, shapes),
        _tokens(once, shapes),
    )


def curve(
    corpus_sizes: Sequence[int] = CORPUS_SIZES, batch_sizes: Sequence[int] = BATCH_SIZES
) -> list[Point]:
    """All batch sizes on all corpora of random passages in random lists."""
    points = []
    for num_passages in corpus_sizes:
        lists = synthetic_lists(num_passages, max(batch_sizes), LIST_SIZE, MEAN_LENGTH, seed=0)
        points += [count(lists, num_queries) for num_queries in batch_sizes]
    return points


def _tokens(lengths: np.ndarray, shapes: Shapes) -> int:
    return sum(batch.rows * batch.length for batch in cut_microbatches(lengths, shapes))
