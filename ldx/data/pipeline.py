"""Batches of lists: batch k is a pure function of (files, batch size, seed, k), read through Grain.

An epoch is a permutation drawn from (seed, epoch), cut into batches whose sizes differ by at most
one; no batch crosses an epoch. So a run goes on from any step with nothing but the step's number.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grain
import numpy as np
from grain.sources import RandomAccessDataSource

from ldx.data.plan import BatchPlan
from ldx.data.schema import ListRecord

T = TypeVar("T")


def num_batches(num_lists: int, batch_size: int) -> int:
    """Batches of an epoch: ceil(num_lists / batch_size)."""
    return -(-num_lists // batch_size)


def epoch_batches(num_lists: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The lists of every batch of an epoch."""
    permutation = np.random.default_rng([seed, epoch]).permutation(num_lists)
    return np.array_split(permutation, num_batches(num_lists, batch_size))


class BatchSource:
    """Random access to the planned batches of a training run; one item a step.

    Args:
      lists: the training lists.
      planner: plans a batch from its lists.
      batch_size: the most lists in a batch.
      seed: of the permutations.
      num_steps: the length of the run.
    """

    def __init__(
        self,
        lists: Sequence[ListRecord],
        planner: Callable[[Sequence[ListRecord]], BatchPlan],
        *,
        batch_size: int,
        seed: int,
        num_steps: int,
    ):
        self._lists = lists
        self._planner = planner
        self._batch_size = batch_size
        self._seed = seed
        self._num_steps = num_steps

    def __len__(self) -> int:
        """Steps of the run."""
        return self._num_steps

    def __getitem__(self, step: int) -> BatchPlan:
        """The planned batch of a step."""
        epoch, batch = divmod(int(step), num_batches(len(self._lists), self._batch_size))
        chosen = epoch_batches(len(self._lists), self._batch_size, self._seed, epoch)[batch]
        return self._planner([self._lists[int(i)] for i in chosen])

    def __repr__(self) -> str:
        """Short, for Grain's messages."""
        return f"BatchSource({self._num_steps} steps of at most {self._batch_size} lists)"


def read_ahead(source: RandomAccessDataSource[T], start: int, num_threads: int = 2) -> Iterator[T]:
    """The items of a source from `start` on, planned in threads while the device works."""
    dataset = grain.MapDataset.source(source)[start:]
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    return iter(dataset.to_iter_dataset(options))
