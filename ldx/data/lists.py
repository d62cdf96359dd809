"""The lists of a records folder as arrays, and those of one global batch.

Shapes: N lists of a split, Q lists (queries) of a batch, L list entries, P distinct passages.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ldx.common.progress import progress_bar
from ldx.records.schema import ListRecord

AnyArray = Any  # numpy on the host, jax on the device


@dataclasses.dataclass(frozen=True, eq=False)
class GuideEmbeddings:
    """A guide model's embeddings, of G dimensions, of all queries and passages of the lists."""

    queries: np.ndarray  # float32 [query texts, G]
    passages: np.ndarray  # float32 [passages, G]


@dataclasses.dataclass(frozen=True, eq=False)
class ListTable:
    """All lists of a split in memory, 12 bytes an entry; texts are only pointed to.

    Attributes:
      list_ids: the ids of the lists.
      query: int32 [N], the numbers of the queries' texts among the distinct `queries` of `read`.
      rows: int32 [N, L], the passages by row; 0 at padding.
      sizes: int32 [N], the numbers of real entries.
      teacher_scores: float32 [N, L]; 0 at padding.
      has_scores: bool [N], whether the record had teacher scores.
      labels: int32 [N, L]; -1 where unjudged and at padding.
      query_type: int32 [N], indices into `query_types`.
      query_types: the names of the query types.
      order_key: int64 [N], keys that are close for lists that share passages.
      guide: a guide's embeddings of `queries` and passages; None where there is no guide.
    """

    list_ids: list[str]
    query: np.ndarray
    rows: np.ndarray
    sizes: np.ndarray
    teacher_scores: np.ndarray
    has_scores: np.ndarray
    labels: np.ndarray
    query_type: np.ndarray
    query_types: list[str]
    order_key: np.ndarray
    guide: GuideEmbeddings | None = None

    @classmethod
    def read(
        cls,
        records: Sequence[ListRecord],
        queries: dict[str, int],
        *,
        list_size: int | None = None,
        only: Callable[[ListRecord], bool] = lambda record: True,
        description: str = "",
    ) -> "ListTable":
        """Read every list once.

        Args:
          records: the lists of a split, which are validated as they are read.
          queries: the number of every distinct query text; new texts are added.
          list_size: the most entries of a list, which keeps its first ones; None keeps all.
          only: whether to read a list.
          description: the text beside a progress bar; "" shows no bar.
        """
        num_lists = len(records)
        lists: list[_ListColumns] = []
        with progress_bar(
            total=num_lists, desc=description, unit=" lists", delay=2.0, disable=not description
        ) as bar:
            for number in range(num_lists):
                record = records[number]
                if only(record):
                    number_of_text = queries.setdefault(record.query, len(queries))
                    lists.append(_ListColumns.of(record, number_of_text, list_size))
                bar.update()
        longest = max((len(x.rows) for x in lists), default=1)
        shape = (len(lists), longest)
        types: dict[str, int] = {}
        codes = [types.setdefault(x.query_type, len(types)) for x in lists]
        table = cls(
            list_ids=[x.list_id for x in lists],
            query=np.array([x.query for x in lists], np.int32),
            rows=np.zeros(shape, np.int32),
            sizes=np.array([len(x.rows) for x in lists], np.int32),
            teacher_scores=np.zeros(shape, np.float32),
            has_scores=np.array([len(x.teacher_scores) > 0 for x in lists], bool),
            labels=np.full(shape, -1, np.int32),
            query_type=np.array(codes, np.int32),
            query_types=list(types),
            order_key=np.array([x.order_key for x in lists], np.int64),
        )
        for i, columns in enumerate(lists):
            table.rows[i, : len(columns.rows)] = columns.rows
            table.teacher_scores[i, : len(columns.teacher_scores)] = columns.teacher_scores
            table.labels[i, : len(columns.labels)] = columns.labels
        return table

    def __len__(self) -> int:
        """The number of lists."""
        return len(self.list_ids)

    @property
    def list_size(self) -> int:
        """Entries of the longest list."""
        return self.rows.shape[1]

    @property
    def where(self) -> np.ndarray:
        """A mask, bool [N, L], true at real entries."""
        return np.arange(self.list_size)[None] < self.sizes[:, None]


class _ListColumns(NamedTuple):
    """What a `ListTable` holds of a list: its fields, cut, and the number of its query's text."""

    list_id: str
    query: int
    query_type: str
    rows: np.ndarray
    teacher_scores: np.ndarray
    labels: np.ndarray
    order_key: int

    @classmethod
    def of(cls, record: ListRecord, query: int, size: int | None) -> "_ListColumns":
        """The columns of a record; `query` is the number of its query's text."""
        return cls(
            record.list_id,
            query,
            record.query_type,
            record.rows[:size].astype(np.int32),
            record.teacher_scores[:size],
            record.labels[:size],
            record.order_key,
        )


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """The padded sizes of every global batch."""

    num_queries: int
    list_size: int
    num_passages: int
    guide_size: int = 0  # dimensions of a guide's embeddings; 0: no guide
    stored_size: int = 0  # dimensions of passages' stored embeddings; 0: the model embeds them

    @property
    def num_texts(self) -> int:
        """The most texts of a batch that the model embeds."""
        return self.num_queries + (0 if self.stored_size else self.num_passages)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lists:
    """The lists of a batch; whatever `where` leaves out is padding."""

    list_index: AnyArray  # int32 [Q, L] into the batch's distinct passages; entry 0 is the positive
    teacher_scores: AnyArray  # float32 [Q, L], calibrated, higher is better
    labels: AnyArray  # int32 [Q, L], -1 unjudged
    where: AnyArray  # bool [Q, L]
    guide_queries: AnyArray | None = None  # float32 [Q, G], a guide's embeddings; None: no guide
    guide_passages: AnyArray | None = None  # float32 [P, G]

    @classmethod
    def empty(cls, size: BatchSize) -> "Lists":
        """A batch that consists of padding alone."""
        shape = (size.num_queries, size.list_size)
        return cls(
            np.zeros(shape, np.int32),
            np.zeros(shape, np.float32),
            np.full(shape, -1, np.int32),
            np.zeros(shape, bool),
            *(
                np.zeros((num, size.guide_size), np.float32) if size.guide_size else None
                for num in (size.num_queries, size.num_passages)
            ),
        )


def take_lists(table: ListTable, numbers: np.ndarray, size: BatchSize) -> tuple[Lists, np.ndarray]:
    """The padded lists of a batch, which point to its distinct passages, and the passages' rows.

    Args:
      table: the lists of a split.
      numbers: the numbers of the lists to take, at most `size.num_queries`.
      size: the padded sizes; no list is longer than its `list_size`.
    """
    num, width = len(numbers), table.list_size
    assert num <= size.num_queries, (num, size)
    assert width <= size.list_size, (width, size)
    lists = Lists.empty(size)
    where = np.arange(width)[None] < table.sizes[numbers, None]
    distinct, index = np.unique(table.rows[numbers][where], return_inverse=True)
    lists.where[:num, :width] = where
    lists.list_index[lists.where] = index
    lists.teacher_scores[:num, :width] = table.teacher_scores[numbers]
    lists.labels[:num, :width] = table.labels[numbers]
    if size.guide_size:
        assert table.guide is not None
        assert lists.guide_queries is not None
        assert lists.guide_passages is not None
        lists.guide_queries[:num] = table.guide.queries[table.query[numbers]]
        lists.guide_passages[: len(distinct)] = table.guide.passages[distinct]
    return lists, distinct
