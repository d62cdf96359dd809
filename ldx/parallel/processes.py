"""Several processes that train as one: how they find each other, and what they agree on.

Every process runs the same command and makes the same plan; process 0 alone writes what is not
split over processes. Before every step they send each other whether one was asked to stop, and a
hash of the plan that they made of the batch. This message is read before the next step, when it has
long arrived.
"""

import contextlib
import functools
import glob
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags, logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from ldx.common.errors import UserError
from ldx.common.interrupt import Interrupted
from ldx.common.locks import hold_folder
from ldx.common.quiet import quiet_orbax
from ldx.parallel.mesh import put_local_rows

HEARTBEAT_SECONDS = 20
"""How long a process may be silent until it counts as dead and the others end."""
START_SECONDS = 300
END_SECONDS = 24 * 3600
"""How long a process that is done waits for process 0, which makes the report."""

# Variables that schedulers set in every process of a job, and those with the number of processes.
SCHEDULERS: Mapping[str, str] = {
    "SLURM_STEP_NODELIST": "SLURM_NTASKS",
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
}

_state = {"stops_together": False}


def define_flags() -> None:
    """Define the flags by which processes find each other; TPU pods and SLURM need none."""
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where not detected")
    flags.DEFINE_integer("num_processes", None, "Processes of this run", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0", lower_bound=0)


def initialize() -> None:
    """Join the other processes, if there are any; call it before anything else uses JAX.

    Raises:
      UserError: flags are incomplete, or the other processes did not join.
    """
    names = ("coordinator_address", "num_processes", "process_id")
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == len(names):
        if _is_scheduled():
            _join({})
        elif _is_on_tpu():
            _join_pod()
        return
    if missing:
        raise UserError(f"--{missing[0]} is missing; the flags {', '.join(names)} go together")
    if values["process_id"] >= values["num_processes"]:
        raise UserError(
            f"--process_id={values['process_id']}: processes are numbered from 0 to "
            f"{values['num_processes'] - 1}, one less than --num_processes"
        )
    if values["num_processes"] > 1:
        _join(values)


def _is_scheduled() -> bool:
    """Whether a scheduler started this as one of several processes."""
    return any(
        name in os.environ and int(os.environ.get(count) or 1) > 1
        for name, count in SCHEDULERS.items()
    )


def _is_on_tpu() -> bool:
    """Whether JAX will use TPUs, of which other hosts may have more."""
    platforms = os.environ.get("JAX_PLATFORMS") or "tpu"
    has_library = importlib.util.find_spec("libtpu") is not None
    return (
        "tpu" in platforms and has_library and any(map(glob.glob, ("/dev/accel*", "/dev/vfio/*")))
    )


NO_CLUSTER = "should be defined"
"""In JAX's message where it finds no other processes: "coordinator_address should be defined"."""

HOSTS = (
    "on every host, with the same --coordinator_address and --num_processes, and --process_id "
    "from 0"
)
POD = (
    "on every host of the pod. A host is on its own with --coordinator_address=localhost:1 "
    "--num_processes=1 --process_id=0"
)


def _join_pod() -> None:
    """Join the other hosts of a TPU pod, as JAX finds them; where it finds none, go on alone.

    Raises:
      UserError: there are other hosts, but they did not join. Each going on alone would be another
        run, and all would write to one folder.
    """
    try:
        _start_jax({})
    except ValueError as error:
        if NO_CLUSTER not in str(error):
            raise _not_found(error, POD) from None
        logging.info("JAX finds no other hosts of a TPU pod: this host trains alone")
    except (RuntimeError, OSError) as error:
        raise _not_found(error, POD) from None


def _join(arguments: Mapping[str, Any]) -> None:
    try:
        _start_jax(arguments)
    except (RuntimeError, ValueError, OSError) as error:
        raise _not_found(error, HOSTS) from None


def _start_jax(arguments: Mapping[str, Any]) -> None:
    jax.distributed.initialize(
        **arguments,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        initialization_timeout=START_SECONDS,
        shutdown_timeout_seconds=END_SECONDS,
    )
    logging.info("process %d of %d", jax.process_index(), jax.process_count())


def _not_found(error: Exception, where: str) -> UserError:
    """The message where processes did not find each other, and where to start the command."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(
        f"the processes of this run did not find each other ({reason}); start the same command "
        f"{where}"
    )


def is_primary() -> bool:
    """Whether this process writes what is not split over processes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
    """Let process 0 run the block first, and then all others.

    It is for files that one process makes on the shared storage and the others find there.
    """
    sync = quiet_orbax()(ocp.multihost.sync_global_processes)
    wait = functools.partial(sync, name, timeout=END_SECONDS)
    if jax.process_count() > 1 and not is_primary():
        wait()
    yield
    if jax.process_count() > 1 and is_primary():
        wait()


def from_primary(values: Mapping[str, float]) -> dict[str, float]:
    """The exact numbers of process 0 on every process, for decisions that all must take alike."""
    if jax.process_count() == 1:
        return dict(values)
    numbers = np.array(list(values.values()), np.float64)
    received = multihost_utils.broadcast_one_to_all(numbers.view(np.uint32))
    return dict(zip(values, np.asarray(received).view(np.float64).tolist(), strict=True))


@contextlib.contextmanager
def hold_together(folder: Path, command: str) -> Iterator[None]:
    """Hold a run's folder for all processes of this run, as `ldx.common.locks.hold_folder` does.

    Raises:
      UserError: another run holds it; every process raises it.
    """
    with contextlib.ExitStack() as stack:
        refusal: Exception | None = None
        if is_primary():
            try:
                stack.enter_context(hold_folder(folder, command))
            except Exception as error:  # raised below, once the others have heard of it
                refusal = error
        if from_primary({"is refused": refusal is not None})["is refused"]:
            raise refusal or UserError(f"process 0 could not hold {folder}; it says why")
        yield


def least(number: int) -> int:
    """The least of the numbers that the processes pass, which are all under 2**62."""
    if jax.process_count() == 1:
        return number
    halves = np.array([number >> 31, number & (2**31 - 1)], np.uint32)
    gathered = np.asarray(multihost_utils.process_allgather(halves)).astype(np.int64)
    return int(((gathered[:, 0] << 31) | gathered[:, 1]).min())


def check_same(what: str, value: Any) -> None:
    """Refuse to begin where the processes do not have the same value.

    Args:
      what: the value's name, for the message.
      value: anything JSON can hold.

    Raises:
      UserError: the values differ; every process raises it.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(value, sort_keys=True, default=str).encode()
    digest = np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    if (digests != digests[0]).any():
        others = [i for i, other in enumerate(digests) if (other != digests[0]).any()]
        raise UserError(
            f"{what}: not the same in all processes (process 0 and {others} differ); start the "
            "same command everywhere, with --workdir and records on storage that all hosts share"
        )


LOST = re.compile(
    r"gloo|nccl|connection (closed|reset)|coordination|heartbeat|unavailable|deadline",
    re.IGNORECASE,
)


def explain_loss(error: Exception) -> UserError | None:
    """The message for an error that the loss of another process caused; None for other errors."""
    if jax.process_count() == 1 or isinstance(error, UserError) or not LOST.search(str(error)):
        return None
    return UserError(
        f"process {jax.process_index()} of {jax.process_count()} lost another process, which was "
        f"killed, failed or is out of reach ({str(error).splitlines()[0]}). Look at the other "
        "processes' messages; the same command on all hosts goes on from the last checkpoint, "
        "also on another number of hosts."
    )


def stop_together() -> None:
    """Note that all processes end now, so that `leave` waits for the others."""
    _state["stops_together"] = True


def leave(code: int) -> NoReturn:
    """End this process with an exit code, at once where it must not wait for the others.

    After a failure of one process the others hang in a collective that it never joins; they end
    when they hear no more of it, so it must not wait for them either.
    """
    alone = code != 0 and not _state["stops_together"]
    if alone and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Agreement:
    """The messages of the processes to each other, sent before each step and read a step later.

    Args:
      mesh: all devices of all processes.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._share = jax.jit(lambda rows: jax.reshard(rows, PartitionSpec()))
        self._message: tuple[int, jax.Array] | None = None
        self.save_is_due = False
        """Whether process 0 said that it is time for a checkpoint."""

    def tell(
        self,
        step: int,
        digest: Callable[[], np.ndarray],
        signum: int | None,
        save_is_due: bool,
    ) -> None:
        """Tell the others about the step to come, after reading the messages before the last one.

        Args:
          step: the step's number.
          digest: a function that gives a hash of the step's plan, uint32 [2]; it is called only
            where there are other processes.
          signum: the signal that asks this process to stop; None for none.
          save_is_due: whether this process's clock says that it is time for a checkpoint.

        Raises:
          UserError: the processes planned different batches for the last step.
          Interrupted: one of several processes was asked to stop before the last step, or a
            process without others is asked to stop now. The step to come is not begun.
        """
        if jax.process_count() == 1:
            self.save_is_due = save_is_due
            if signum is not None:
                raise Interrupted(signum)
            return
        self.read()
        value = np.array([[*digest(), signum or 0, save_is_due]], np.uint32)
        rows = np.repeat(value, jax.local_device_count(), axis=0)
        with jax.set_mesh(self._mesh):
            self._message = step, self._share(put_local_rows(rows, self._mesh, self._mesh.size))

    def read(self) -> None:
        """Wait for the last messages of all processes and read them; it raises as `tell` does."""
        if self._message is None:
            return
        (step, shared), self._message = self._message, None
        values = np.asarray(shared)
        if (values[:, :2] != values[0, :2]).any():
            raise UserError(
                f"the processes planned different batches for step {step + 1}; they must read "
                "the same records with the same config and versions of ldx and numpy. Nothing of "
                "that step is saved."
            )
        self.save_is_due = bool(values[0, 3])
        if signum := int(values[:, 2].max()):
            raise Interrupted(signum)
