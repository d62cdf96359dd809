"""Several processes that train as one: how they find each other, and what they agree on.

Every process runs the same command and makes the same plan; process 0 alone writes what is not
split over processes. At every step they tell each other whether one was asked to stop, and a hash
of the plan they made of the batch; the answer is read a step later, so nobody waits for it.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from absl import flags, logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from ldx.errors import UserError
from ldx.interrupt import SIGNALS, Interrupted
from ldx.sharding import put_local_rows

HEARTBEAT_SECONDS = 20
"""A process that is silent for so long counts as dead, and the others end."""
START_SECONDS = 300
END_SECONDS = 24 * 3600
"""How long a process that is done waits for process 0, which makes the report."""

# What schedulers set where they start several processes of one job.
SCHEDULERS: Mapping[str, str] = {
    "SLURM": "SLURM_NTASKS",
    "Open MPI": "OMPI_COMM_WORLD_SIZE",
}


def define_flags() -> None:
    """Define the flags by which processes find each other; TPU pods and SLURM need none."""
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where not detected")
    flags.DEFINE_integer("num_processes", None, "Processes of this run", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0", lower_bound=0)


def initialize() -> None:
    """Join the other processes, if there are any; before anything else uses JAX.

    Raises:
      UserError: flags are incomplete, or the others did not come.
    """
    names = ("coordinator_address", "num_processes", "process_id")
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(names):
        if _is_one_of_several():
            _join({})
        return
    if missing:
        raise UserError(f"--{missing[0]} is missing; the flags {', '.join(names)} go together")
    if given["process_id"] >= given["num_processes"]:
        raise UserError(
            f"--process_id={given['process_id']}: processes are numbered from 0 to "
            f"{given['num_processes'] - 1}, one less than --num_processes"
        )
    if given["num_processes"] > 1:
        _join(given)


def _is_one_of_several() -> bool:
    """Whether a scheduler or a TPU pod started several processes."""
    if any(int(os.environ.get(name) or 1) > 1 for name in SCHEDULERS.values()):
        return True
    # Names of all hosts, on the hosts of a pod.
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _join(given: Mapping[str, Any]) -> None:
    try:
        jax.distributed.initialize(
            **given,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            initialization_timeout=START_SECONDS,
            shutdown_timeout_seconds=END_SECONDS,
        )
    except RuntimeError as error:
        raise UserError(
            f"the processes of this run did not find each other ({str(error).splitlines()[0]}); "
            "start the same command on every host, with the same --coordinator_address and "
            "--num_processes, and --process_id from 0"
        ) from None
    logging.info("process %d of %d", jax.process_index(), jax.process_count())


def is_primary() -> bool:
    """Whether this process writes what is not split over processes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
    """Let process 0 do the block first, and then all others.

    For what one process makes on the storage that they share, and the others find there.
    """
    if jax.process_count() > 1 and not is_primary():
        multihost_utils.sync_global_devices(name)
    yield
    if jax.process_count() > 1 and is_primary():
        multihost_utils.sync_global_devices(name)


LOST = re.compile(
    r"gloo|nccl|connection (closed|reset)|coordination|heartbeat|unavailable|deadline",
    re.IGNORECASE,
)


def explain_loss(error: Exception) -> UserError | None:
    """What to tell of an error that the loss of another process caused; None for others."""
    if jax.process_count() == 1 or isinstance(error, UserError) or not LOST.search(str(error)):
        return None
    return UserError(
        f"process {jax.process_index()} of {jax.process_count()} lost another process, which was "
        f"killed, failed or is out of reach ({str(error).splitlines()[0]}). Look at the other "
        "processes' messages; the same command on all hosts goes on from the last checkpoint, "
        "also on another number of hosts."
    )


def leave(code: int) -> NoReturn:
    """End this process with an exit code; at once where the others cannot be waited for.

    After a failure of one process the others hang in a collective that it never joins; they end
    when they hear no more of it, so it must not wait for them either.
    """
    if jax.process_count() > 1 and code not in (0, *(128 + s for s in SIGNALS)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Agreement:
    """What the processes tell each other once a step, and read a step later.

    Args:
      mesh: all devices of all processes.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._share = jax.jit(lambda told: jax.reshard(told, PartitionSpec()))
        self._told: tuple[int, jax.Array] | None = None
        self.save_is_due = False
        """What process 0 said of it."""

    def tell(
        self,
        step: int,
        digest: Callable[[], np.ndarray],
        signum: int | None,
        save_is_due: bool,
    ) -> None:
        """Tell the others about the step to come, without waiting for them.

        Args:
          step: the step's number.
          digest: gives uint32 [2], of its plan; asked for where there are others.
          signum: the signal that asks this process to stop; None for none.
          save_is_due: whether this process's clock says that it is time for a checkpoint.

        Raises:
          UserError: the processes planned different batches for the step before.
          Interrupted: before that step one of them was asked to stop; alone, this one is.
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
            self._told = step, self._share(put_local_rows(rows, self._mesh, self._mesh.size))

    def read(self) -> None:
        """Wait for what was told last; raises as `tell` does."""
        if self._told is None:
            return
        (step, told), self._told = self._told, None
        values = np.asarray(told)
        if (values[:, :2] != values[0, :2]).any():
            raise UserError(
                f"the processes planned different batches for step {step + 1}; they must read "
                "the same records with the same config and versions of ldx and numpy. Nothing of "
                "that step is saved."
            )
        self.save_is_due = bool(values[0, 3])
        if signum := int(values[:, 2].max()):
            raise Interrupted(signum)
