"""Connecting to a Ray cluster, or starting one on this machine, without Ray's messages."""

import contextlib
import importlib.util
import logging as std_logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from types import FrameType

from ldx.common.errors import UserError, listing
from ldx.common.interrupt import Interrupted

SECONDS_TO_CONNECT = 20.0

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # This will become Ray's default; while it is unset, Ray warns.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Environment variables that are set for Ray unless the user has set them."""

ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""An environment variable; at 0, Ray listens on the loopback address alone, for one machine."""

LOGS = "Ray's logs are in /tmp/ray/session_latest/logs of the machine where it ran"


def prepare_ray(address: str) -> str:
    """Set the environment variables of Ray; return the address of the cluster, "" for a new one.

    Ray reads them when it is imported, and vLLM imports it too.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    for name, value in (ENVIRONMENT if address else ENVIRONMENT | {ON_LOOPBACK: "0"}).items():
        os.environ.setdefault(name, value)
    return address


def start_ray(address: str) -> None:
    """Connect to a cluster, or start one on this machine, unless this process is connected already.

    Raises:
      UserError: Ray is not installed, the cluster does not exist, or a cluster started here would
        be open to other machines.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine=ray needs a package: pip install '.[ray]'")
    address = prepare_ray(address)
    import ray

    if ray.is_initialized():
        return
    _refuse_where_nobody_listens(address)
    options = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        with warnings.catch_warnings():
            # JAX warns of any fork; Ray's are harmless, since each starts another program at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called")
            ray.init(**options, log_to_driver=False, logging_level=std_logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--ray_address: no Ray on {address or 'this machine'}:\n"
            f"{listing(str(error).splitlines())}\nIs it started (`ray start`; docs/ray.md), with "
            "the same versions of Python and Ray, and if it asks for a token, RAY_AUTH_MODE=token?"
        ) from error

    if not address and os.environ[ON_LOOPBACK] == "0":
        listens_on = ray.get_runtime_context().gcs_address
        if not listens_on.startswith("127."):
            ray.shutdown()
            raise UserError(
                f"Ray would listen on {listens_on}, open to other machines: something imported Ray "
                f"before {ON_LOOPBACK}=0 was set. Set that variable before the command starts"
            )


def _refuse_where_nobody_listens(address: str) -> None:
    """Raise a UserError where nobody listens at an address; Ray itself would wait for ever."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise UserError(
            f"--ray_address: no Ray on {address} ({error}); is it started there (`ray start`; "
            "docs/ray.md), and is this the right port?"
        ) from None


def has_gpus() -> bool:
    """Whether the cluster has a GPU."""
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A context in which SIGTERM interrupts as Ctrl-C does.

    The handler raises KeyboardInterrupt because Ray lets no other exception of a handler through.

    Raises:
      Interrupted: SIGTERM came.
    """
    signals: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if signals:
            raise Interrupted(signals[0]) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
