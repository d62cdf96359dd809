"""The engine that makes shards in this process."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from data_prep.engines.shards import Made, Shard, Worker
from ldx.common.errors import UserError

SHARDS_AHEAD = 2
"""Shards of each worker that are prepared, or under way."""


@dataclass(frozen=True)
class LocalEngine:
    """This process: one worker, called by as many threads as is useful."""

    def run(
        self,
        make_worker: Callable[[], Worker],
        shards: Iterable[Shard],
        *,
        num_workers: int,
    ) -> Iterator[tuple[Shard, Made]]:
        """Make shards; with one thread, in order. See `data_prep.engines.shards.Engine`."""
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
                    elif failed is None:  # what is under way is finished before it is told
                        failed, left = done, iter(())
                        running = {f: s for f, s in running.items() if not f.cancel()}
            if failed is not None:
                failed.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make(worker: Worker, shard: Shard) -> Made:
    return worker(shard.payload())
