"""An object in a process of its own: its memory is its own, and so are its library's threads."""

import contextlib
import importlib
import multiprocessing
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


class Worker:
    """Makes an object in a new process, and calls its methods there.

    Args:
      make: "MODULE:NAME" of what makes the object: a class or a function.
      arguments: of `make`, by name.
    """

    def __init__(self, make: str, **arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, make, arguments), name=make, daemon=True
        )
        self._process.start()
        other.close()
        self._is_made = False

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What a method returns. The first call also waits until the object is made.

        Raises:
          RuntimeError: the method (or making the object) raised, or the process ended.
        """
        if not self._is_made:
            self._receive()
            self._is_made = True
        self._connection.send((method, arguments, named))
        return self._receive()

    def _receive(self) -> Any:
        try:
            is_good, value = self._connection.recv()
        except EOFError:
            self._process.join(10)
            raise RuntimeError(
                f"{self._process.name}: its process ended (exit code {self._process.exitcode}); "
                "-9 is often a lack of memory"
            ) from None
        if not is_good:
            raise RuntimeError(f"{self._process.name} failed:\n{value}")
        return value

    def close(self) -> None:
        """End the process; nothing if it is ended."""
        if self._connection.closed:
            return
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def __enter__(self) -> "Worker":
        """For `with`, which closes at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()


def _serve(connection: Connection, make: str, arguments: dict[str, Any]) -> None:
    """Answer calls until the other end is closed."""
    try:
        module, _, name = make.partition(":")
        made = getattr(importlib.import_module(module), name)(**arguments)
        connection.send((True, None))
        while True:
            method, positional, named = connection.recv()
            connection.send((True, getattr(made, method)(*positional, **named)))
    except (EOFError, BrokenPipeError):
        pass
    except Exception:
        connection.send((False, traceback.format_exc()))


def reset_peak() -> int | None:
    """Forget the most memory that this process has held, where that can be.

    Returns:
      What it holds now (`held_memory`).
    """
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")
    return held_memory()


def peak_memory() -> int | None:
    """The most memory in bytes that this process held since `reset_peak`; None if unknown."""
    return _status("VmHWM")


def held_memory() -> int | None:
    """The memory in bytes that this process holds; None if unknown."""
    return _status("VmRSS")


def _status(name: str) -> int | None:
    if not STATUS.is_file():
        return None
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(fields[name].split()[0]) * 1024
