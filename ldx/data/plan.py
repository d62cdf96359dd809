"""The plan of a step: which texts of a batch are embedded, where, and how lists point to them.

A passage or query that stands in a batch many times is embedded once. Shapes: Q lists, L list
entries, P distinct passages, all padded to the sizes of `BatchSize`, so that one compiled program
serves every batch. Pure numpy, a pure function of the batch.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from ldx.data.batching import Shapes, cut_microbatches
from ldx.data.lists import BatchSize, Lists, pad_lists
from ldx.data.schema import ListRecord
from ldx.data.tokens import TokenStore
from ldx.models.tokenizer import Tokenizer, pad_tokens


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """One micro-batch of tokens, and the first row of each device that its embeddings take."""

    token_ids: np.ndarray  # int32 [rows, length]
    mask: np.ndarray  # bool [rows, length]
    start: int


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """All that a step needs of a batch."""

    token_batches: list[TokenBatch]
    query_position: np.ndarray  # int32 [Q]: row of the embedding buffer
    passage_position: np.ndarray  # int32 [P]
    lists: Lists
    list_ids: list[str]
    num_distinct_passages: int
    num_slots: int
    num_tokens: int  # padding included


class BatchPlanner:
    """Plans batches of lists over one passage set.

    Args:
      tokenizer: the student's.
      passages: tokens of every passage, prompt included.
      query_prompt: goes before every query.
      query_max_length: tokens of a query, special tokens included.
      passage_max_length: tokens of a passage, special tokens included.
      shapes: the micro-batches allowed.
      size: the padded sizes of a batch.
      num_devices: the devices that share each micro-batch.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        passages: TokenStore,
        *,
        query_prompt: str,
        query_max_length: int,
        passage_max_length: int,
        shapes: Shapes,
        size: BatchSize,
        num_devices: int,
    ):
        self._tokenizer = tokenizer
        self._passages = passages
        self._query_prompt = query_prompt
        self._num_special = len(tokenizer.prefix) + len(tokenizer.suffix)
        self._query_room = query_max_length - self._num_special
        self._passage_room = passage_max_length - self._num_special
        self._shapes = shapes
        self._num_devices = num_devices
        self.size = size

    @property
    def buffer_rows(self) -> int:
        """Rows of the buffer that holds a batch's embeddings; divisible by the device count."""
        rows = self.size.num_texts + self._shapes.max_rows
        return -(-rows // self._num_devices) * self._num_devices

    def query_ids(self, queries: Sequence[str]) -> list[np.ndarray]:
        """Token ids of queries, cut to their maximum length, without special tokens."""
        encoded = self._tokenizer.encode([self._query_prompt + query for query in queries])
        return [ids[: self._query_room] for ids in encoded]

    def passage_ids(self, rows: Iterable[int]) -> list[np.ndarray]:
        """Token ids of passages, cut to their maximum length, without special tokens."""
        return [self._passages[int(row)][: self._passage_room] for row in rows]

    def __call__(self, records: Sequence[ListRecord]) -> BatchPlan:
        """Plan the batch of these lists, at most `size.num_queries`."""
        lists, rows = pad_lists(records, self.size)
        text_of_query: dict[str, int] = {}
        query_text = [text_of_query.setdefault(r.query, len(text_of_query)) for r in records]
        ids = self.query_ids(list(text_of_query)) + self.passage_ids(rows)
        token_batches, position = self._token_batches(ids)
        query_position = np.zeros(self.size.num_queries, np.int32)
        query_position[: len(records)] = position[query_text]
        passage_position = np.zeros(self.size.num_passages, np.int32)
        passage_position[: len(rows)] = position[len(text_of_query) :]
        return BatchPlan(
            token_batches,
            query_position,
            passage_position,
            lists,
            [record.list_id for record in records],
            len(rows),
            int(lists.where.sum()),
            sum(batch.token_ids.size for batch in token_batches),
        )

    def _token_batches(self, ids: list[np.ndarray]) -> tuple[list[TokenBatch], np.ndarray]:
        """Micro-batches of the texts, and the buffer row of each text's embedding.

        The buffer is split over the devices in contiguous blocks, and so is every micro-batch: row
        r of one lies on device r // (rows / devices).
        """
        lengths = np.array([len(x) for x in ids]) + self._num_special
        position = np.zeros(len(ids), np.int32)
        rows_of_device = self.buffer_rows // self._num_devices
        token_batches, start = [], 0
        for batch in cut_microbatches(lengths, self._shapes):
            tokens = pad_tokens(
                [ids[i] for i in batch.texts],
                self._tokenizer,
                max_length=batch.length,
                padded_length=batch.length,
                num_rows=batch.rows,
            )
            token_batches.append(TokenBatch(*tokens, start))
            per_device = batch.rows // self._num_devices
            device, offset = np.divmod(np.arange(len(batch.texts)), per_device)
            position[batch.texts] = device * rows_of_device + start + offset
            start += per_device
        assert start <= rows_of_device, (start, rows_of_device)
        return token_batches, position
