"""Which texts go through the model together: micro-batches of a few fixed shapes.

Shapes: a micro-batch is `rows` texts, each padded to `length` tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ldx.errors import UserError

DEFAULT_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)


def default_microbatch_tokens(platform: str) -> int:
    """Tokens of a micro-batch that keep a device of this platform busy: 4,096 on CPU."""
    return 4096 if platform == "cpu" else 65_536


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The fixed set of micro-batch shapes (rows, length), shortest length first."""

    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def make(
        cls,
        max_length: int,
        microbatch_tokens: int,
        *,
        num_devices: int = 1,
        lengths: Sequence[int] | None = None,
    ) -> "Shapes":
        """Shapes of about `microbatch_tokens` tokens each, rows divisible by the device count.

        Args:
          max_length: tokens of the longest text, special tokens included.
          microbatch_tokens: tokens in work at once, padding included.
          num_devices: the devices that share a micro-batch.
          lengths: padded lengths to use; None means `DEFAULT_LENGTHS` up to `max_length`.

        Raises:
          UserError: `lengths` do not reach `max_length`.
        """
        if lengths is None:
            lengths = [n for n in DEFAULT_LENGTHS if n < max_length] + [max_length]
        lengths = sorted(set(lengths))
        if lengths[0] < 3 or lengths[-1] < max_length:
            raise UserError(
                f"config.train.bucket_lengths={tuple(lengths)}: wanted lengths of at least 3 "
                f"tokens, the last not under the longest text, {max_length} tokens"
            )

        def rows(length: int) -> int:
            return max(1, microbatch_tokens // length // num_devices) * num_devices

        return cls(tuple((rows(length), length) for length in lengths))

    @property
    def max_rows(self) -> int:
        """Rows of the largest micro-batch."""
        return max(rows for rows, _ in self.shapes)


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Texts of one micro-batch: indices of at most `rows` texts, padded to `length` tokens."""

    texts: np.ndarray
    rows: int
    length: int


def cut_microbatches(lengths: np.ndarray, shapes: Shapes) -> list[MicroBatch]:
    """Cut texts into micro-batches: longest first, each filled up with the next shorter texts.

    So every micro-batch but the last is full, and texts share it with texts of like length.

    Args:
      lengths: tokens of each text, special tokens included, at most the longest shape.
      shapes: the shapes allowed.
    """
    order = np.argsort(-lengths, kind="stable")
    edges = np.array([length for _, length in shapes.shapes])
    microbatches, start = [], 0
    while start < len(order):
        rows, length = shapes.shapes[int(np.searchsorted(edges, lengths[order[start]]))]
        microbatches.append(MicroBatch(order[start : start + rows], rows, length))
        start += rows
    return microbatches
