"""The lists that a step benchmark runs on: BM25 lists of real collections, and random ones.

    python -m tests.benchmarks.lists --output=DIR

writes DIR/NAME.npz for each collection (tests/benchmarks/make_lists.py does it). Reading takes
NumPy alone. N lists, L entries a list, P passages.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ldx.common.errors import UserError
from ldx.common.files import atomic_write

BERT_VOCAB_SIZE = 30522
BERT_SPECIAL_IDS = ((101,), (102,), 0)  # [CLS], [SEP], [PAD]
LENGTH_SPREAD = 0.6  # standard deviation of a random length's logarithm
PASSAGE_LENGTHS = (16, 512)
QUERY_LENGTHS = (4, 60)
MEAN_QUERY_LENGTH = 16


class Texts(Protocol):
    """Token ids of texts by number, without special tokens, not cut."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every text, int32 [number of texts]."""

    def __len__(self) -> int:
        """The number of texts."""

    def __getitem__(self, number: int, /) -> np.ndarray:
        """Token ids of one text, int32 [length]."""


@dataclass(frozen=True, eq=False)
class StoredTexts:
    """Token ids of all texts, one after the other.

    Attributes:
      ids: int32 [all tokens].
      offsets: int64 [number of texts + 1]; text i is ids[offsets[i] : offsets[i + 1]].
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[np.ndarray]) -> "StoredTexts":
        """Join the token ids of some texts."""
        lengths = [len(ids) for ids in texts]
        ids = np.concatenate([np.zeros(0, np.int32), *texts]).astype(np.int32)
        return cls(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every text, int32 [number of texts]."""
        return np.diff(self.offsets).astype(np.int32)

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        """Token ids of one text, int32 [length]."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]


@dataclass(frozen=True, eq=False)
class RandomTexts:
    """Texts of given lengths whose ids are drawn when they are asked for, always the same."""

    lengths: np.ndarray  # int32 [number of texts]
    seed: int
    vocab_size: int

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        """Token ids of one text, int32 [length]; ids below 1000 (BERT's special ones) stay out."""
        low = min(1000, self.vocab_size // 2)
        rng = np.random.default_rng((self.seed, int(number)))
        return rng.integers(low, self.vocab_size, self.lengths[number], np.int32)


@dataclass(frozen=True, eq=False)
class BenchmarkLists:
    """Lists of scored passages, with the token ids of all texts.

    Attributes:
      passages: the P passages.
      queries: the query texts, each once.
      rows: int32 [N, L], passages of each list, distinct; entry 0 is the positive.
      teacher_scores: float32 [N, L] in [0, 1], descending.
      query: int32 [N], the query text of each list.
      prefix: special tokens before a text.
      suffix: special tokens after it.
      pad_id: fills up shorter texts.
    """

    passages: Texts
    queries: Texts
    rows: np.ndarray
    teacher_scores: np.ndarray
    query: np.ndarray
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int

    def __len__(self) -> int:
        """N, the number of lists."""
        return len(self.rows)

    @property
    def list_size(self) -> int:
        """L, the entries of a list."""
        return self.rows.shape[1]

    def passage_lengths(self, max_length: int) -> np.ndarray:
        """Tokens of every passage once it is cut, special tokens included; int32 [P]."""
        return self._cut_lengths(self.passages, max_length)

    def query_lengths(self, max_length: int) -> np.ndarray:
        """Tokens of every query text once it is cut, special tokens included."""
        return self._cut_lengths(self.queries, max_length)

    def passage_ids(self, row: int, max_length: int) -> np.ndarray:
        """Model input of one passage: at most `max_length` tokens, special tokens included."""
        return self._cut(self.passages[row], max_length)

    def query_ids(self, number: int, max_length: int) -> np.ndarray:
        """Model input of one query text, likewise."""
        return self._cut(self.queries[number], max_length)

    def padded_passages(self, rows: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Model input of some passages, padded to the longest of them.

        Returns:
          token_ids int32 and mask bool (False is padding), both [len(rows), longest].
        """
        return self._pad([self.passage_ids(row, max_length) for row in rows])

    def padded_queries(self, numbers: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Model input of some query texts, likewise."""
        return self._pad([self.query_ids(number, max_length) for number in numbers])

    def _cut_lengths(self, texts: Texts, max_length: int) -> np.ndarray:
        return np.minimum(texts.lengths + self._num_special(max_length), max_length)

    def _cut(self, ids: np.ndarray, max_length: int) -> np.ndarray:
        ids = ids[: max_length - self._num_special(max_length)]
        return np.concatenate([self.prefix, ids, self.suffix]).astype(np.int32)

    def _num_special(self, max_length: int) -> int:
        num_special = len(self.prefix) + len(self.suffix)
        assert num_special <= max_length, (num_special, max_length)
        return num_special

    def _pad(self, texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.array([len(ids) for ids in texts])
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        token_ids = np.full(mask.shape, self.pad_id, np.int32)
        if len(texts):
            token_ids[mask] = np.concatenate(texts)
        return token_ids, mask


def load(path: str | Path) -> BenchmarkLists:
    """Read the lists of one collection.

    Raises:
      UserError: there is no such file.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; python -m tests.benchmarks.lists makes it")
    with np.load(path, allow_pickle=False) as arrays:
        return BenchmarkLists(
            passages=StoredTexts(arrays["passage_ids"], arrays["passage_offsets"]),
            queries=StoredTexts(arrays["query_ids"], arrays["query_offsets"]),
            rows=arrays["rows"],
            teacher_scores=arrays["teacher_scores"],
            query=arrays["query"],
            prefix=tuple(arrays["prefix"].tolist()),
            suffix=tuple(arrays["suffix"].tolist()),
            pad_id=int(arrays["pad_id"]),
        )


def save(path: str | Path, lists: BenchmarkLists) -> None:
    """Write the lists of one collection, for `load`."""
    passages, queries = lists.passages, lists.queries
    assert isinstance(passages, StoredTexts)
    assert isinstance(queries, StoredTexts)
    with atomic_write(path, "wb") as file:
        np.savez_compressed(
            file,
            passage_ids=passages.ids,
            passage_offsets=passages.offsets,
            query_ids=queries.ids,
            query_offsets=queries.offsets,
            rows=lists.rows,
            teacher_scores=lists.teacher_scores,
            query=lists.query,
            prefix=np.array(lists.prefix, np.int32),
            suffix=np.array(lists.suffix, np.int32),
            pad_id=np.array(lists.pad_id, np.int32),
        )


def synthetic_lists(
    num_passages: int,
    num_lists: int,
    list_size: int,
    mean_length: float,
    seed: int,
    *,
    vocab_size: int = BERT_VOCAB_SIZE,
) -> BenchmarkLists:
    """Random lists over a random corpus; no token id is drawn before it is asked for.

    A list's rows are a uniform choice without replacement. Lengths, without special tokens, are
    lognormal: passages around `mean_length`, clipped to PASSAGE_LENGTHS; queries around
    MEAN_QUERY_LENGTH, clipped to QUERY_LENGTHS, one a list.
    """
    assert list_size <= num_passages, (list_size, num_passages)
    rng = np.random.default_rng(seed)
    passages = _random_lengths(rng, num_passages, mean_length, PASSAGE_LENGTHS)
    queries = _random_lengths(rng, num_lists, MEAN_QUERY_LENGTH, QUERY_LENGTHS)
    scores = rng.uniform(size=(num_lists, list_size)).astype(np.float32)
    prefix, suffix, pad_id = BERT_SPECIAL_IDS
    return BenchmarkLists(
        passages=RandomTexts(passages, seed, vocab_size),
        queries=RandomTexts(queries, seed + 1, vocab_size),
        rows=_random_rows(rng, num_passages, num_lists, list_size),
        teacher_scores=-np.sort(-scores, axis=1),
        query=np.arange(num_lists, dtype=np.int32),
        prefix=prefix,
        suffix=suffix,
        pad_id=pad_id,
    )


def _random_lengths(
    rng: np.random.Generator, number: int, mean: float, limits: tuple[int, int]
) -> np.ndarray:
    lengths = rng.lognormal(np.log(mean) - LENGTH_SPREAD**2 / 2, LENGTH_SPREAD, number)
    return np.clip(np.rint(lengths), *limits).astype(np.int32)


def _random_rows(
    rng: np.random.Generator, num_passages: int, num_lists: int, list_size: int
) -> np.ndarray:
    """Floyd's sampling (CACM 30(9), 1987) of all lists at once, then shuffled within a list."""
    rows = np.empty((num_lists, list_size), np.int32)
    for place, last in enumerate(range(num_passages - list_size, num_passages)):
        drawn = rng.integers(0, last + 1, num_lists, np.int32)
        taken = (rows[:, :place] == drawn[:, None]).any(axis=1)
        rows[:, place] = np.where(taken, last, drawn)
    return rng.permuted(rows, axis=1)


if __name__ == "__main__":
    from tests.benchmarks.make_lists import main

    main()
