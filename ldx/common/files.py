"""Files that are either whole or absent, and fingerprints of their content."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

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
