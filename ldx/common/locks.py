"""Locks on files, which the system releases when a process ends, and the one of a run's folder."""

import contextlib
import datetime
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from absl import logging

from ldx.common.errors import UserError

LOCK_NAME = ".lock"
INHERITED = "LDX_HELD_FOLDER"
"""The variable by which a command tells those that it starts which folder it holds for them."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(path: str | Path, holder: str) -> Iterator[None]:
    """Hold a lock that the system releases when this process ends, however it ends.

    Args:
      path: the lock file; it is not removed.
      holder: the words to log while waiting, such as "another process embeds the passages".
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        if not _try_lock(file):
            logging.info("waiting: %s (lock %s)", holder, path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def hold_folder(folder: str | Path, command: str, *, wait: bool = False) -> Iterator[int]:
    """Hold a run's folder, in which no two commands may work at once, as long as the block lasts.

    The system gives it free when this process, and all that got the file descriptor, have ended,
    however they end. Where the file system has no locks, a warning says so.

    Args:
      folder: the folder; it is made where it is missing.
      command: who holds it, for the message that others get, such as "ldx.train".
      wait: whether to wait for another holder instead of being refused.

    Yields:
      The file descriptor of the lock, for processes that work on this one's behalf; -1 where the
      process that started this one holds the folder for it.

    Raises:
      UserError: another process holds it; the message says which.
    """
    folder = Path(folder).absolute()
    if os.environ.get(INHERITED) == str(folder):
        yield -1
        return
    is_new = not folder.exists()
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOCK_NAME
        with open(path, "a+", encoding="utf-8") as file:
            _lock(file, folder, wait)
            if not _is_at(file, path):
                continue  # a command that failed took the file away while this one waited
            file.seek(0)
            file.truncate()
            now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
            host = socket.gethostname()
            file.write(f"{command}, process {os.getpid()} on {host}, since {now}\n")
            file.flush()
            try:
                yield file.fileno()
            except BaseException:
                # What fails at once leaves no new folder behind.
                if is_new and list(folder.iterdir()) == [path]:
                    path.unlink()
                    folder.rmdir()
                raise
        return


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str], folder: Path, wait: bool) -> None:
    """Take the lock of an open file; it raises UserError where another process has it."""
    if _try_lock(file):
        return
    file.seek(0)
    holder = file.read().strip() or "another process"
    if not wait:
        raise UserError(
            f"{folder} is in use by {holder}, or by what it left running; two commands would "
            "spoil each other's work there. Wait until it ends, or stop it; the same command "
            "then goes on"
        )
    logging.info("waiting for %s, or what it left running, in %s", holder, folder)
    fcntl.flock(file, fcntl.LOCK_EX)


def _try_lock(file: IO[str]) -> bool:
    """Try to lock an open file: whether it is this process's now, or there are no locks at all."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning("%s: this file system has no locks (%s)", file.name, error.strerror)
    return True
