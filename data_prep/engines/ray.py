"""`--engine=ray`: actors of a Ray cluster make shards, which are written where the command runs.

An actor is a process that holds a worker, such as a teacher with its model. An actor that dies is
replaced, and the shard that it was making is made again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from absl import logging

from data_prep.engines.local import LocalEngine
from data_prep.engines.ray_cluster import LOGS, has_gpus, prepare_ray, sigterm_as_ctrl_c, start_ray
from data_prep.engines.shards import Made, Payload, Shard, Worker
from ldx.common.errors import UserError, listing

MAX_DEATHS = 3
"""The job ends when so many actors have died over one shard, or in a row at their start."""

SECONDS_BETWEEN_WARNINGS = 60.0

SAME_EVERYWHERE = "Is the same ldx installed on every machine of the cluster?"


@dataclass(frozen=True)
class RayEngine:
    """Actors of a Ray cluster; see `data_prep.engines.shards.Engine`.

    A worker for several threads (`num_workers` > 1), such as the client of a server, stays in this
    process: its key is here, and so may the server be, and a single client can keep to limits.

    Args:
      address: the address of the cluster, as `ray.init` takes it; "": the cluster that RAY_ADDRESS
        names, or else one that is started on this machine and ends with this process.
      workers: the number of actors at once; 0: as many as the cluster has room for.
      gpus: the GPUs of each actor, where the cluster has any; 0: none.
      cpus: the CPUs of each actor, and the number of threads of libraries such as PyTorch in it.
    """

    address: str = ""
    workers: int = 0
    gpus: float = 1.0
    cpus: float = 1.0

    def __post_init__(self) -> None:
        for key, least in (("workers", 0), ("gpus", 0), ("cpus", 1)):
            value = getattr(self, key)
            if value < least:
                raise UserError(f"--ray_{key}={value}: wanted at least {least}")
        if self.address.startswith("ray://"):
            raise UserError(
                f"--ray_address={self.address}: this must run on a machine of the cluster; start "
                "it there with --ray_address=auto, or with `ray job submit`"
            )

        prepare_ray(self.address)

    def run(
        self,
        make_worker: Callable[[], Worker],
        shards: Iterable[Shard],
        *,
        num_workers: int,
    ) -> Iterator[tuple[Shard, Made]]:
        """Make shards, in any order.

        Raises:
          UserError: a worker raised it, the cluster does not exist, actors do not start, or they
            die over the same shard again and again.
        """
        if num_workers < 1:
            raise UserError(f"num_workers={num_workers}: wanted at least 1")
        if num_workers > 1:
            yield from LocalEngine().run(make_worker, shards, num_workers=num_workers)
            return
        waiting = list(shards)
        start_ray(self.address)
        gpus = self.gpus if has_gpus() else 0.0
        num_actors = min(self.num_actors(gpus), len(waiting))
        with sigterm_as_ctrl_c():
            actors = _Actors(make_worker, gpus, self.cpus)
            try:
                yield from actors.make(waiting, num_actors)
            finally:
                actors.close()

    def num_actors(self, gpus: float) -> int:
        """The number of actors that work at once, each with so many GPUs.

        Raises:
          UserError: the cluster has no room for an actor.
        """
        import ray

        if self.workers:
            return self.workers
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0) // self.cpus)
        if gpus:
            room = min(room, int(resources.get("GPU", 0) // gpus))
        if not room:
            raise UserError(
                f"the Ray cluster has {resources.get('GPU', 0):g} GPUs and "
                f"{resources.get('CPU', 0):g} CPUs, no room for a worker with --ray_gpus="
                f"{gpus:g} and --ray_cpus={self.cpus:g}; lower these, or give "
                "--ray_workers where it grows by itself"
            )
        return room


@dataclass(frozen=True)
class _Mistake:
    """The message of a UserError, which is returned because Ray would wrap a raised error."""

    message: str


class _Holder:
    """The class that runs in an actor and holds its worker."""

    def __init__(self, make_worker: Callable[[], Worker]):
        self._make_worker = make_worker

    def start(self) -> _Mistake | None:
        try:
            self._worker = self._make_worker()
        except UserError as error:
            return _Mistake(str(error))
        return None

    def make(self, payload: Payload) -> Made | _Mistake:
        try:
            return self._worker(payload)
        except UserError as error:
            return _Mistake(str(error))


@dataclass(eq=False)
class _Actor:
    handle: Any
    is_ready: bool = False


@dataclass(eq=False)
class _Task:
    """A shard, its payload in Ray's object store, and how many actors died over it."""

    shard: Shard
    payload: Any
    deaths: int = 0


class _Actors:
    """A group of actors, and the task that each is working on."""

    def __init__(self, make_worker: Callable[[], Worker], gpus: float, cpus: float):
        import ray

        self._gpus, self._cpus = gpus, cpus
        self._class = ray.remote(_Holder).options(num_gpus=gpus, num_cpus=cpus)
        self._make_worker = ray.put(make_worker)
        self._actors: list[_Actor] = []
        self._idle: list[_Actor] = []
        self._under_way: dict[Any, tuple[_Actor, _Task | None]] = {}
        self._prepared: deque[_Task] = deque()
        self._failed_starts = 0

    def make(self, shards: Iterable[Shard], num_actors: int) -> Iterator[tuple[Shard, Made]]:
        """Make shards; at most as many payloads wait in Ray's object store as there are actors."""
        import ray

        for _ in range(num_actors):
            self._start()
        waiting = iter(shards)
        while True:
            self._assign()
            while len(self._prepared) < num_actors and (shard := next(waiting, None)):
                self._prepared.append(_Task(shard, ray.put(shard.payload())))
                self._assign()
            if not self._prepared and all(task is None for _, task in self._under_way.values()):
                return
            results, _ = ray.wait(list(self._under_way), timeout=SECONDS_BETWEEN_WARNINGS)
            if not results:
                self._warn_if_none_is_ready()
            for result in results:
                actor, task = self._under_way.pop(result)
                made = self._result(result, actor, task)
                if task and made:
                    yield task.shard, made

    def close(self) -> None:
        """End all actors."""
        for actor in list(self._actors):
            self._kill(actor)

    def _start(self) -> None:
        actor = _Actor(self._class.remote(self._make_worker))
        self._actors.append(actor)
        self._under_way[actor.handle.start.remote()] = (actor, None)

    def _assign(self) -> None:
        while self._prepared and self._idle:
            actor, task = self._idle.pop(), self._prepared.popleft()
            self._under_way[actor.handle.make.remote(task.payload)] = (actor, task)

    def _result(self, result: Any, actor: _Actor, task: _Task | None) -> Made | None:
        """The shard that a call made; None where the actor has only started, or has died."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            value = ray.get(result)
        except RayTaskError:
            raise  # this is a mistake in the program; the error holds the actor's traceback
        except RayError as error:
            self._replace(actor, task, error)
            return None
        if isinstance(value, _Mistake):
            raise UserError(value.message)
        if task is None:
            actor.is_ready, self._failed_starts = True, 0
        self._idle.append(actor)
        return value if task else None

    def _replace(self, actor: _Actor, task: _Task | None, error: Exception) -> None:
        """Start another actor for one that died, and put its shard first in line."""
        reason = listing(str(error).strip().splitlines(), limit=8)
        if task is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_DEATHS:
                message = f"Ray's workers do not start:\n{reason}\n{SAME_EVERYWHERE} {LOGS}"
                if not self._any_is_ready():
                    raise UserError(message) from error
                logging.warning("%s\nThe work goes on with the other workers", message)
                self._kill(actor)
                return
        else:
            task.deaths += 1
            if task.deaths == MAX_DEATHS:
                raise UserError(
                    f"{MAX_DEATHS} workers died, one after the other, over the shard "
                    f"{task.shard.name}:\n{reason}\n{LOGS}; often the cause is too little memory"
                ) from error
            logging.warning("a worker died over the shard %s, which is made again", task.shard.name)
            self._prepared.appendleft(task)
        self._kill(actor)
        self._start()

    def _kill(self, actor: _Actor) -> None:
        import ray

        self._actors.remove(actor)
        ray.kill(actor.handle)

    def _any_is_ready(self) -> bool:
        return any(actor.is_ready for actor in self._actors)

    def _warn_if_none_is_ready(self) -> None:
        import ray

        if not self._any_is_ready():
            logging.warning(
                "waiting for a worker with %g GPUs and %g CPUs to start; Ray's free resources: %s",
                self._gpus,
                self._cpus,
                {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")},
            )
