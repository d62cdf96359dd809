"""The engine that makes shards in this process."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from data_prep.engines.shards import Made, Shard, Worker
from ldx.common.errors import UserError

SHARDS_AHEAD = 2
"""The number of shards for each thread that wait or are under way."""


@dataclass(frozen=True)
class LocalEngine:
    """The engine that makes shards in this process: one worker, which one or more threads call."""

    def run(
        self,
        make_worker: Callable[[], Worker],
        shards: Iterable[Shard],
        *,
        num_workers: int,
    ) -> Iterator[tuple[Shard, Made]]:
        """Make shards, in their order if `num_workers` is 1; see `data_prep.engines.shards.Engine`.

        Raises:
          UserError: `num_workers` is under 1, or a worker raised it.
        """
        worker = make_worker()
        if num_workers < 1:
            raise UserError(f"num_workers={num_workers}: wanted at least 1")
        if num_workers == 1:
            for shard in shards:
                yield shard, worker(shard.payload())
            return
        running: dict[Future[Made], Shard] = {}
        pool = ThreadPoolExecutor(num_workers)
        left = iter(shards)
        failed: Future[Made] | None = None
        try:
            while True:
                for shard in itertools.islice(left, SHARDS_AHEAD * num_workers - len(running)):
                    running[pool.submit(_make, worker, shard)] = shard
                if not running:
                    break
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    shard = running.pop(done)
                    if done.exception() is None:
                        yield shard, done.result()
                    elif failed is None:  # shards under way are finished before the error is raised
                        failed, left = done, iter(())
                        running = {f: s for f, s in running.items() if not f.cancel()}
            if failed is not None:
                failed.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make(worker: Worker, shard: Shard) -> Made:
    return worker(shard.payload())
