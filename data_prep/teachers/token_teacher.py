"""Teachers whose models read token ids: pairs become ids, and ids batches of like length."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from absl import logging

from data_prep.teachers.base import Pairs, Problem
from ldx.common.errors import UserError

ENCODED_AT_ONCE = 1024
INPUT_IDS = "input_ids"

Encoded = dict[str, np.ndarray]
"""One pair as model input: int32 arrays of one length, by name; `input_ids` is among them."""


@dataclass(frozen=True)
class Failure:
    """The reason why some pairs could not be handled together."""

    reason: str
    out_of_memory: bool


class TokenTeacher(abc.ABC):
    """A teacher that scores pairs in batches; a pair that breaks its batch is found and gets NaN.

    When memory runs out, `batch_tokens` halves for good.

    Args:
      batch_tokens: the most tokens of a batch, padding included; None: all pairs in one batch.
    """

    def __init__(self, batch_tokens: int | None):
        self.batch_tokens = batch_tokens
        self.problems: list[Problem] = []

    @abc.abstractmethod
    def load(self) -> None:
        """Load tokenizer and model, unless that is done."""

    @abc.abstractmethod
    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> list[Encoded]:
        """Model input of pairs, each without padding."""

    @abc.abstractmethod
    def forward(self, batch: Sequence[Encoded]) -> np.ndarray:
        """Scores [B] of a batch."""

    def score(self, pairs: Pairs) -> np.ndarray:
        """Scores float32 [N]; see `data_prep.teachers.base.Teacher`."""
        self.load()
        encoded, reasons = self._encode_all(pairs)
        scores = np.full(len(pairs), np.nan, np.float32)
        reasons |= self._score_into(scores, encoded)
        for i in np.flatnonzero(~np.isfinite(scores)).tolist():
            reasons.setdefault(i, f"the model's score is {scores[i]}, no finite number")
            scores[i] = np.nan
        self.problems = [
            Problem(pairs.query_ids[i], pairs.doc_ids[i], reasons[i]) for i in sorted(reasons)
        ]
        return scores

    def _encode_all(self, pairs: Pairs) -> tuple[dict[int, Encoded], dict[int, str]]:
        """Model input by pair, and the reasons by pair where there is none."""
        texts = [
            i
            for i in range(len(pairs))
            if isinstance(pairs.queries[i], str) and isinstance(pairs.passages[i], str)
        ]
        others = set(range(len(pairs))) - set(texts)
        reasons = dict.fromkeys(others, "query or passage is no text")
        encoded: dict[int, Encoded] = {}

        def encode(numbers: Sequence[int]) -> None:
            inputs = self.encode(
                [pairs.queries[i] for i in numbers], [pairs.passages[i] for i in numbers]
            )
            encoded.update(zip(numbers, inputs, strict=True))

        for start in range(0, len(texts), ENCODED_AT_ONCE):
            numbers = texts[start : start + ENCODED_AT_ONCE]
            if failure := attempt(encode, numbers):
                reasons |= isolate(encode, numbers, failure)
        return encoded, reasons

    def _score_into(self, scores: np.ndarray, encoded: Mapping[int, Encoded]) -> dict[int, str]:
        """Set the scores of the encoded pairs; returns the reasons by pair where there is none."""

        def run(numbers: Sequence[int]) -> None:
            scores[list(numbers)] = self.forward([encoded[i] for i in numbers])

        # The longest go first: if memory does not suffice, that shows at once.
        order = sorted(encoded, key=lambda i: (-len(encoded[i][INPUT_IDS]), i))
        reasons: dict[int, str] = {}
        done = 0
        while done < len(order):
            width = len(encoded[order[done]][INPUT_IDS])
            size = len(order) if self.batch_tokens is None else self.batch_tokens // max(width, 1)
            batch = order[done : done + max(size, 1)]
            failure = attempt(run, batch)
            if failure and failure.out_of_memory and self.batch_tokens and len(batch) > 1:
                self.batch_tokens = width * (len(batch) // 2)
                logging.warning("out of memory: batch_tokens is %d from now on", self.batch_tokens)
                _release_memory()
                continue
            if failure:
                reasons |= isolate(run, batch, failure)
            done += len(batch)
        return reasons


def attempt(run: Callable[[Sequence[int]], None], numbers: Sequence[int]) -> Failure | None:
    """Run, and return why that failed, if it did; a mistake in the settings is raised."""
    try:
        run(numbers)
    except UserError:
        raise
    except Exception as error:  # whatever a tokenizer, a model or a device raises over one pair
        # Only words are kept: the error itself would keep the tensors of its stack alive.
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
        return Failure(reason, _is_out_of_memory(error))
    return None


def isolate(
    run: Callable[[Sequence[int]], None], numbers: Sequence[int], failure: Failure
) -> dict[int, str]:
    """Run ever smaller halves of pairs that failed, until only pairs that fail alone are left.

    Args:
      run: does the work of some pairs.
      numbers: the pairs that failed together.
      failure: why they failed.

    Returns:
      The reason why a pair fails alone, by pair.
    """
    if len(numbers) == 1:
        return {numbers[0]: failure.reason}
    middle = len(numbers) // 2
    reasons: dict[int, str] = {}
    for half in (numbers[:middle], numbers[middle:]):
        if half_failure := attempt(run, half):
            reasons |= isolate(run, half, half_failure)
    return reasons


def pad(
    batch: Sequence[Encoded], fill: Mapping[str, int], side: Literal["left", "right"]
) -> dict[str, np.ndarray]:
    """Arrays int64 [B, T] of a batch, with its attention_mask; T is its longest length.

    Args:
      batch: the pairs, each without padding.
      fill: the value of padding by the name of an array; 0 for arrays that it does not name.
      side: the side on which padding goes.
    """
    sizes = [len(item[INPUT_IDS]) for item in batch]
    shape = (len(batch), max(sizes))
    arrays = {name: np.full(shape, fill.get(name, 0), np.int64) for name in batch[0]}
    arrays["attention_mask"] = mask = np.zeros(shape, np.int64)
    for row, (item, size) in enumerate(zip(batch, sizes, strict=True)):
        columns = slice(0, size) if side == "right" else slice(shape[1] - size, shape[1])
        mask[row, columns] = 1
        for name, values in item.items():
            arrays[name][row, columns] = values
    return arrays


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    # CUDA's errors have the first words; the RuntimeError of PyTorch's CPU allocator the second.
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory")
    )


def _release_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
