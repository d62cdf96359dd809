"""Where shards are made: in this process, or by the workers of a Ray cluster."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from absl import flags

from data_prep.shards import Engine, Made, Shard, Worker
from ldx.common.errors import UserError

ENGINES = ("local", "ray")
SHARDS_AHEAD = 2
"""Shards of each worker that are prepared, or under way."""


def define_engine_flags() -> None:
    """Define --engine and what belongs to it."""
    flags.DEFINE_enum("engine", "local", ENGINES, "Where stages run: this process, or Ray's actors")
    flags.DEFINE_string(
        "ray_address",
        "",
        'Ray: the cluster, such as "auto" on one of its machines; "": the one that RAY_ADDRESS '
        "names, or else one on this machine, for as long as the command runs",
    )
    flags.DEFINE_integer("ray_workers", 0, "Ray: actors at once; 0: as many as there is room for")
    flags.DEFINE_float("ray_gpus", 1.0, "Ray: GPUs of an actor, where the cluster has any")
    flags.DEFINE_float("ray_cpus", 1.0, "Ray: CPUs of an actor")


def engine_from_flags() -> Engine:
    """The engine that the flags name."""
    values = flags.FLAGS
    if values.engine == "local":
        return LocalEngine()
    from data_prep.ray_engine import RayEngine

    return RayEngine(values.ray_address, values.ray_workers, values.ray_gpus, values.ray_cpus)


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
        """Make shards; with one thread, in order. See `data_prep.shards.Engine`."""
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
