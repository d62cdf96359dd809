"""The plan of a step: which texts of a batch are embedded, where, and how lists point to them.

A passage or query that stands in a batch many times is embedded once. Shapes: Q lists, L list
entries, P distinct passages, all padded to the sizes of `BatchSize`, so that one compiled program
serves every batch. The plan is a pure function of the batch, made in numpy: every process makes the
same plan, and reads token ids only for the rows that its own devices embed.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from ldx.data.batching import MicroBatch, Shapes, cut_microbatches
from ldx.data.lists import BatchSize, Lists, ListTable, take_lists
from ldx.data.tokens import Tokens
from ldx.models.tokenizer import SpecialTokens, num_special, pad_tokens


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """One micro-batch of tokens, and the row from which its embeddings stand on each device.

    The arrays hold the rows of this process's devices; there are `num_rows` in all.
    """

    token_ids: np.ndarray  # int32 [rows, length]
    mask: np.ndarray  # bool [rows, length]
    num_rows: int
    start: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (rows, length) over all processes."""
        return self.num_rows, self.token_ids.shape[1]


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """All that a step needs of a batch."""

    token_batches: list[TokenBatch]
    query_position: np.ndarray  # int32 [Q]: row of the embedding buffer
    # int32 [P], rows of the embedding buffer; or stored embeddings themselves, float32 [P, D].
    passages: np.ndarray
    lists: Lists
    list_ids: list[str]
    texts: np.ndarray  # int64: the numbers of the distinct queries and passages, then their lengths
    source: str
    num_distinct_passages: int
    num_slots: int
    num_tokens: int  # of the texts, without padding
    num_padded_tokens: int  # of the micro-batches, with padding

    @property
    def has_stored_passages(self) -> bool:
        """Whether passages enter by stored embeddings, and the model embeds queries alone."""
        return self.passages.ndim == 2

    def digest(self) -> np.ndarray:
        """A hash, uint32 [2], of which text goes where; it is equal on all processes of a run.

        Stored embeddings, and those of a guide, are left out: a step has 250 MB of them, and the
        texts decide them.
        """
        digest = hashlib.blake2b(digest_size=8)
        for batch in self.token_batches:
            digest.update(repr((batch.shape, batch.start)).encode())
        lists = self.lists
        of_lists = (lists.list_index, lists.teacher_scores, lists.labels, lists.where)
        for array in (self.query_position, self.texts, *of_lists):
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr((self.source, self.list_ids)).encode())
        return np.frombuffer(digest.digest(), np.uint32)


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that share the rows of a micro-batch; `local` are those of this process."""

    count: int = 1
    local: tuple[int, ...] = (0,)  # places of this process's devices, ascending


class BatchPlanner:
    """A planner of batches of lists over one passage set.

    Args:
      passages: tokens of every passage, prompt included.
      queries: tokens of every query text that a table points to, prompt included.
      special: the special tokens around a text.
      query_max_length: tokens of a query, special tokens included.
      passage_max_length: tokens of a passage, special tokens included.
      shapes: the shapes that a micro-batch may have.
      size: the padded sizes of a batch.
      devices: the devices that share each micro-batch.
      source: the name of the lists' source.
      stored: embeddings float32 [passages, D] by which passages enter the batches, so that the
        model embeds queries alone; None: the model embeds passages too.
    """

    def __init__(
        self,
        passages: Tokens,
        queries: Tokens,
        special: SpecialTokens,
        *,
        query_max_length: int,
        passage_max_length: int,
        shapes: Shapes,
        size: BatchSize,
        devices: Devices | None = None,
        source: str = "",
        stored: np.ndarray | None = None,
    ):
        assert size.stored_size == (0 if stored is None else stored.shape[1]), size
        self._passages = passages
        self._queries = queries
        self._special = special
        self._query_max_length = query_max_length
        self._passage_max_length = passage_max_length
        self.shapes = shapes
        self._num_special = num_special(special)
        self._devices = devices or Devices()
        self._source = source
        self.stored = stored
        self.size = size

    @property
    def buffer_rows(self) -> int:
        """The rows of the buffer of a batch's embeddings, divisible by the number of devices."""
        rows = self.size.num_texts + self.shapes.max_rows
        return -(-rows // self._devices.count) * self._devices.count

    def query_ids(self, numbers: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Token ids of queries, cut to their maximum length, without special tokens."""
        return [self._query(int(number)) for number in numbers]

    def passage_ids(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Token ids of passages, cut to their maximum length, without special tokens."""
        return [self._passage(int(row)) for row in rows]

    def _query(self, number: int) -> np.ndarray:
        return self._queries[number][: self._query_max_length - self._num_special]

    def _passage(self, row: int) -> np.ndarray:
        return self._passages[row][: self._passage_max_length - self._num_special]

    def __call__(self, table: ListTable, numbers: np.ndarray) -> BatchPlan:
        """Plan the batch of these lists of a table, at most `size.num_queries`."""
        lists, rows = take_lists(table, numbers, self.size)
        embedded_rows = rows if self.stored is None else rows[:0]
        queries, query_text = np.unique(table.query[numbers], return_inverse=True)
        lengths = self._lengths(queries, embedded_rows)
        token_batches, position = self._token_batches(queries, embedded_rows, lengths)
        query_position = np.zeros(self.size.num_queries, np.int32)
        query_position[: len(numbers)] = position[query_text]
        if self.stored is None:
            passages = np.zeros(self.size.num_passages, np.int32)
            passages[: len(rows)] = position[len(queries) :]
        else:
            passages = np.zeros((self.size.num_passages, self.size.stored_size), np.float32)
            passages[: len(rows)] = self.stored[rows]
        return BatchPlan(
            token_batches,
            query_position,
            passages,
            lists,
            [table.list_ids[number] for number in numbers],
            np.concatenate([queries, rows, lengths]).astype(np.int64),
            self._source,
            num_distinct_passages=len(rows),
            num_slots=int(lists.where.sum()),
            num_tokens=int(lengths.sum()),
            num_padded_tokens=sum(int(np.prod(batch.shape)) for batch in token_batches),
        )

    def _lengths(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Tokens of each text, special tokens included: first the queries, then the passages."""
        special = self._num_special
        of_queries = np.minimum(self._queries.lengths[queries] + special, self._query_max_length)
        of_passages = np.minimum(self._passages.lengths[rows] + special, self._passage_max_length)
        return np.concatenate([of_queries, of_passages])

    def _token_batches(
        self, queries: np.ndarray, rows: np.ndarray, lengths: np.ndarray
    ) -> tuple[list[TokenBatch], np.ndarray]:
        """Micro-batches of the texts, and the buffer row of each text's embedding.

        The buffer is split over the devices in contiguous blocks, and so is every micro-batch: row
        r of one lies on device r // (rows / devices).
        """
        position = np.zeros(len(lengths), np.int32)
        rows_of_device = self.buffer_rows // self._devices.count
        token_batches, start = [], 0
        for batch in cut_microbatches(lengths, self.shapes):
            per_device = batch.rows // self._devices.count
            token_batches.append(self._fill(batch, queries, rows, start))
            device, offset = np.divmod(np.arange(len(batch.texts)), per_device)
            position[batch.texts] = device * rows_of_device + start + offset
            start += per_device
        assert start <= rows_of_device, (start, rows_of_device)
        return token_batches, position

    def _fill(
        self, batch: MicroBatch, queries: np.ndarray, rows: np.ndarray, start: int
    ) -> TokenBatch:
        """The tokens of the rows that this process's devices embed."""
        per_device = batch.rows // self._devices.count
        blocks = [batch.texts[d * per_device : (d + 1) * per_device] for d in self._devices.local]
        # Only the last blocks of a micro-batch can be short, so its texts stay at the front.
        texts = np.concatenate(blocks)
        numbers = np.concatenate([queries, rows])[texts].tolist()
        ids = [
            self._query(number) if is_query else self._passage(number)
            for number, is_query in zip(numbers, (texts < len(queries)).tolist(), strict=True)
        ]
        token_ids, mask = pad_tokens(
            ids,
            self._special,
            max_length=batch.length,
            padded_length=batch.length,
            num_rows=per_device * len(blocks),
        )
        return TokenBatch(token_ids, mask, batch.rows, start)
