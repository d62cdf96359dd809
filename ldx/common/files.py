"""Files that are either whole or absent, and fingerprints of their content."""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from absl import logging

from ldx.common.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, which replaces `path` once all of it is written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("waiting: %s (lock %s)", holder, path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


LOCK_NAME = ".lock"
INHERITED = "LDX_HELD_FOLDER"
"""The variable by which a command tells those that it starts which folder it holds for them."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def held(folder: str | Path, command: str, *, wait: bool = False) -> Iterator[int]:
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
                if is_new and list(folder.iterdir()) == [
                    path
                ]:  # it fails at once, and leaves nothing
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
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        if not wait:
            raise UserError(
                f"{folder} is in use by {holder}, or by what it left running; two commands would "
                "spoil each other's work there. Wait until it ends, or stop it; the same command "
                "then goes on"
            ) from None
        logging.info("waiting for %s, or what it left running, in %s", holder, folder)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning("%s: this file system has no locks (%s)", folder, error.strerror)


def folder_path(name: str, path: str | Path) -> Path:
    """The path of a folder that the user names; there may be nothing at it yet.

    Args:
      name: the name of the argument, or --FLAG, for the message.
      path: the path that the user gave for it.

    Raises:
      UserError: the path is an address such as gs://BUCKET, or there is a file at it or at the
        path of a folder above.
    """
    if is_address(path):
        raise UserError(
            f"{name}={path}: an address; wanted a folder of this machine's file system. Mount the "
            "bucket (for gs:// with gcsfuse), or copy the folder when the work is done"
        )
    path = Path(path)
    for place in (path, *path.parents):
        if place.is_dir():
            break
        if place.exists():
            where = "" if place == path else f": {place}"
            raise UserError(f"{name}={path}{where} is a file; wanted a folder")
    return path


def is_address(path: str | Path) -> bool:
    """Whether a path is an address, such as gs://BUCKET/FOLDER, which no folder here can be."""
    # A Path has made one slash of two.
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
      UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
      UserError: the file is missing, is not JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def read_object_if_any(path: Path) -> dict[str, Any]:
    """Read a JSON object as `read_object` does; {} where there is no file."""
    return read_object(path) if path.is_file() else {}


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically, with keys in their order and an indent of two spaces."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*parts: str | bytes | Path) -> str:
    """A hex digest of texts, bytes and files (a `Path` stands for its content), in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = sha256_file(part)
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]
