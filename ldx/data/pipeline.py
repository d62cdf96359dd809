"""Batches of lists: batch k is a pure function of (files, config, seed, k), read through Grain.

An epoch takes the lists of every source as often as weights say, cuts them into batches of one
source whose sizes differ by at most one, and lets the sources take turns until each is used up; no
batch crosses the end of an epoch. So a run can go on from any step, given nothing but its number.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import grain
import numpy as np
from grain.sources import RandomAccessDataSource

from ldx.data.lists import ListTable
from ldx.data.plan import BatchPlan

T = TypeVar("T")


def epoch_counts(
    num_lists: Mapping[str, int], weight: float, query_type_weights: Mapping[str, float]
) -> dict[str, int]:
    """How many lists of each query type stand in an epoch, given how many the source has."""
    return {
        name: round(number * weight * query_type_weights.get(name, 1.0))
        for name, number in num_lists.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingLists:
    """The training lists of one corpus.

    Attributes:
      name: the name of the corpus, shown with its metrics.
      table: its lists.
      planner: plans a batch from (table, numbers of lists).
      weight: how often each list stands in an epoch; for a fraction, a random part of them does.
      query_type_weights: a further factor for each query type; a type that is not named has 1.
    """

    name: str
    table: ListTable
    planner: Callable[[ListTable, np.ndarray], BatchPlan]
    weight: float = 1.0
    query_type_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many lists of each query type stand in an epoch."""
        sizes = np.bincount(self.table.query_type, minlength=len(self.table.query_types))
        by_type = dict(zip(self.table.query_types, sizes.tolist(), strict=True))
        return epoch_counts(by_type, self.weight, self.query_type_weights)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The numbers of the lists of one epoch: whole copies, and a random part of another."""
        parts = []
        for code, count in enumerate(self.counts().values()):
            numbers = np.flatnonzero(self.table.query_type == code)
            copies, rest = divmod(count, max(len(numbers), 1))
            parts += [numbers] * copies + [rng.permutation(numbers)[:rest]]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def num_batches(num_lists: int, batch_size: int) -> int:
    """The number of batches of an epoch of one source: ceil(num_lists / batch_size)."""
    return -(-num_lists // batch_size)


def shuffle_blocks(order_key: np.ndarray, block_size: int, rng: np.random.Generator) -> np.ndarray:
    """A random order in which neighbours by `order_key` stay together, `block_size` at a time.

    With `block_size` 1 it is a plain random permutation. Equal keys are in random order, and the
    beginning of the first block is random too, so that blocks differ from epoch to epoch.
    """
    order = rng.permutation(len(order_key))
    if block_size == 1:
        return order
    order = order[np.argsort(order_key[order], kind="stable")]
    order = np.roll(order, int(rng.integers(len(order))) if len(order) else 0)
    starts = range(0, len(order), block_size)
    blocks = [order[start : start + block_size] for start in starts]
    return np.concatenate([blocks[i] for i in rng.permutation(len(blocks))] or [order])


class Turn(NamedTuple):
    """A step of an epoch: the number of the source, and that of its batch."""

    source: int
    batch: int


def take_turns(batch_counts: Sequence[int]) -> list[Turn]:
    """The turns of an epoch, given how many batches each source has."""
    return [
        Turn(source, batch)
        for batch in range(max(batch_counts, default=0))
        for source, number in enumerate(batch_counts)
        if batch < number
    ]


class Batches:
    """Random access to the planned batches of a training run, one item a step.

    Args:
      sources: the corpora.
      batch_size: the most lists in a batch.
      seed: the seed of everything that is drawn.
      num_steps: the length of the run.
      block_size: how many neighbours by `order_key` are drawn together (`shuffle_blocks`).
    """

    def __init__(
        self,
        sources: Sequence[TrainingLists],
        *,
        batch_size: int,
        seed: int,
        num_steps: int,
        block_size: int = 1,
    ):
        self.sources = sources
        self._batch_size = batch_size
        self._seed = seed
        self._num_steps = num_steps
        self._block_size = block_size
        sizes = [num_batches(sum(s.counts().values()), batch_size) for s in sources]
        self._turns = take_turns(sizes)
        self._epoch = functools.lru_cache(maxsize=2)(self._cut_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch, over all sources."""
        return len(self._turns)

    def __len__(self) -> int:
        """The number of steps of the run."""
        return self._num_steps

    def lists_of_step(self, step: int) -> tuple[TrainingLists, np.ndarray]:
        """The source of a step's batch, and the numbers of its lists."""
        epoch, turn = divmod(int(step), len(self._turns))
        source, batch = self._turns[turn]
        return self.sources[source], self._epoch(epoch)[source][batch]

    def __getitem__(self, step: int) -> BatchPlan:
        """The planned batch of a step."""
        source, numbers = self.lists_of_step(step)
        return source.planner(source.table, numbers)

    def _cut_epoch(self, epoch: int) -> list[list[np.ndarray]]:
        """The lists of every batch of an epoch, by source."""
        return [self._cut(number, epoch) for number in range(len(self.sources))]

    def _cut(self, number: int, epoch: int) -> list[np.ndarray]:
        source, rng = self.sources[number], np.random.default_rng([self._seed, epoch, number])
        lists = source.draw(rng)
        order = shuffle_blocks(source.table.order_key[lists], self._block_size, rng)
        num_parts = max(1, num_batches(len(lists), self._batch_size))
        return np.array_split(lists[order], num_parts)

    def __repr__(self) -> str:
        """A short text for Grain's messages."""
        return f"Batches({self._num_steps} steps of at most {self._batch_size} lists)"


def read_ahead(items: RandomAccessDataSource[T], start: int, num_threads: int = 2) -> Iterator[T]:
    """The items from `start` on, made in threads while the device works."""
    dataset = grain.MapDataset.source(items)[start:]
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    return iter(dataset.to_iter_dataset(options))
