"""Which texts go through the model together: micro-batches of a few fixed shapes.

Shapes: a micro-batch is `rows` texts, each padded to `length` tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldx.common.errors import UserError

LENGTH_STEP = 8
"""All padded lengths but the longest are multiples of this."""
MICROBATCHES_PER_BATCH = 4
"""About how many micro-batches a small batch of queries is cut into on a CPU."""
TAIL_FACTORS = (2, 8)
"""How many times fewer rows the last micro-batch of a batch may have, because it is seldom full."""
MIN_ROWS = 4
"""The fewest rows that a micro-batch has; fewer would leave a device idle."""


def default_microbatch_tokens(platform: str) -> int:
    """Tokens of a micro-batch that keep a device of this platform busy, and not many more."""
    return 2048 if platform == "cpu" else 32_768


def limit_to_batch(tokens: int, batch_tokens: float, longest: int, platform: str) -> int:
    """Tokens of a micro-batch of which a batch fills several, where padding costs as much as text.

    In one micro-batch, 32 short queries are padded to the longest of them: to three times their
    tokens.

    Args:
      tokens: the tokens that keep a device busy.
      batch_tokens: what a batch has for each device, padding not counted.
      longest: the tokens of the longest text, which a micro-batch has at least.
      platform: elsewhere than on a CPU, a few micro-batches take longer than one.
    """
    if platform != "cpu":
        return tokens
    return min(tokens, max(longest, int(batch_tokens) // MICROBATCHES_PER_BATCH))


def default_num_lengths(platform: str) -> int:
    """How many padded lengths are worth a program each: a CPU runs few micro-batches an hour."""
    return 6 if platform == "cpu" else 12


class Shape(NamedTuple):
    """The shape of a micro-batch: how many texts it has, and the tokens each is padded to."""

    rows: int
    length: int


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The fixed set of micro-batch shapes, shortest length first.

    `tails` are further shapes of the shortest length, with fewer rows, fewest first.
    """

    shapes: tuple[Shape, ...]
    tails: tuple[Shape, ...] = ()

    @classmethod
    def make(
        cls,
        max_length: int,
        microbatch_tokens: int,
        *,
        num_devices: int = 1,
        lengths: Sequence[int] | None = None,
    ) -> "Shapes":
        """Shapes of about `microbatch_tokens` tokens a device, rows divisible by the device count.

        Args:
          max_length: tokens of the longest text, special tokens included.
          microbatch_tokens: tokens that each device works on at once, padding included.
          num_devices: the number of devices that share a micro-batch.
          lengths: padded lengths to use; None means `even_lengths`.

        Raises:
          UserError: `lengths` do not reach `max_length`.
        """
        lengths = sorted(set(even_lengths(max_length) if lengths is None else lengths))
        if lengths[0] < 3 or lengths[-1] < max_length:
            raise UserError(
                f"config.train.bucket_lengths={tuple(lengths)}: wanted lengths of at least 3 "
                f"tokens, the last not under the longest text, {max_length} tokens"
            )
        rows = [max(1, microbatch_tokens // length) for length in lengths]
        tails = sorted({rows[0] // factor for factor in TAIL_FACTORS})
        return cls(
            tuple(Shape(n * num_devices, length) for n, length in zip(rows, lengths, strict=True)),
            tuple(Shape(n * num_devices, lengths[0]) for n in tails if n >= MIN_ROWS),
        )

    @property
    def all(self) -> tuple[Shape, ...]:
        """Every shape a micro-batch can have."""
        return self.tails + self.shapes

    @property
    def max_rows(self) -> int:
        """Rows of the largest micro-batch."""
        return max(shape.rows for shape in self.shapes)


def even_lengths(max_length: int) -> list[int]:
    """Padded lengths for texts of unknown lengths, each a quarter longer than the one before."""
    lengths, length = [], 4 * LENGTH_STEP
    while length < max_length:
        lengths.append(length)
        length = _round_up(length * 5 // 4)
    return [*lengths, max_length]


def best_lengths(lengths: np.ndarray, max_length: int, num_lengths: int) -> list[int]:
    """The padded lengths with the fewest padded tokens for texts of these lengths.

    They are exact, by dynamic programming over the multiples of `LENGTH_STEP`. The padded lengths
    are edges: the last edge is that of the longest text, and every text is padded to the next one.

    Args:
      lengths: tokens of the texts, special tokens included; longer ones count as `max_length`.
      max_length: the number of tokens at which a text is cut.
      num_lengths: the most edges.
    """
    lengths = np.minimum(lengths, max_length)
    top = min(max_length, _round_up(int(lengths.max(initial=3))))
    edges = [*range(LENGTH_STEP, top, LENGTH_STEP), top]
    counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
    below = np.concatenate([[0], np.cumsum(counts)])  # texts under each edge
    # cost[j]: tokens of all texts up to edge j with the edges so far, the last of them edge j.
    cost = below[1:] * np.array(edges)
    chosen = [[j] for j in range(len(edges))]
    for _ in range(min(num_lengths, len(edges)) - 1):
        step = cost[:, None] + (below[1:][None] - below[1:][:, None]) * np.array(edges)[None]
        step = np.where(np.arange(len(edges))[:, None] < np.arange(len(edges))[None], step, 2**62)
        before = step.argmin(axis=0)
        better = step.min(axis=0) < cost
        chosen = [[*chosen[before[j]], j] if better[j] else chosen[j] for j in range(len(edges))]
        cost = np.minimum(cost, step.min(axis=0))
    return [edges[j] for j in chosen[-1]]


def _round_up(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Texts of one micro-batch: indices of at most `rows` texts, padded to `length` tokens."""

    texts: np.ndarray
    rows: int
    length: int


def cut_microbatches(lengths: np.ndarray, shapes: Shapes) -> list[MicroBatch]:
    """Cut texts into micro-batches: longest first, each filled up with the next shorter texts.

    Thus every micro-batch but the last is full, and its texts have similar lengths.

    Args:
      lengths: tokens of each text, special tokens included; no more than the longest shape has.
      shapes: the shapes that a micro-batch may have.
    """
    order = np.argsort(-lengths, kind="stable")
    edges = np.array([shape.length for shape in shapes.shapes])
    microbatches, start = [], 0
    while start < len(order):
        rows, length = shapes.shapes[int(np.searchsorted(edges, lengths[order[start]]))]
        left = len(order) - start
        if length == edges[0]:
            rows = next((tail.rows for tail in shapes.tails if tail.rows >= left), rows)
        microbatches.append(MicroBatch(order[start : start + rows], rows, length))
        start += rows
    return microbatches
