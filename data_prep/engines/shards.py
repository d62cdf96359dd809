"""Work in shards: each is a file whose name tells what it was made from; none is made twice.

FOLDER/NAME-KEY-DIGEST.SUFFIX: KEY hashes everything the content depends on, DIGEST the content. A
shard is written under a temporary name and renamed. One that is there and fits its digest is what
would be made again; what changes a key changes the name, and only shards of new names are made.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, fingerprint
from ldx.common.progress import progress_bar

LEAST_TO_JUDGE = 8
"""Records of a shard, all of which failed, that tell of an engine that failed."""

Payload = Mapping[str, Any]
"""What a worker needs to make a shard, of plain values and arrays."""


@dataclass(frozen=True)
class Shard:
    """A file to be made.

    Attributes:
      name: unique in its folder, such as `question-00003`.
      key: a hash of everything that decides its content.
      num_units: what it counts on the progress bar, such as queries.
      payload: makes what the worker needs; called only if the shard is not there yet.
    """

    name: str
    key: str
    num_units: int
    payload: Callable[[], Payload] = field(repr=False)


@dataclass(frozen=True)
class Made:
    """What a worker made of a shard.

    Attributes:
      content: of the file.
      rejects: records that were set aside, each with at least its `id` and the `reason`.
      num_records: of which they are; 0 where none can fail.
    """

    content: bytes
    rejects: Sequence[Mapping[str, str]] = ()
    num_records: int = 0


Worker = Callable[[Payload], Made]
"""Makes shards, one after the other; it holds what they share, such as a model."""


class Engine(Protocol):
    """The place where workers run: this process, or a Ray cluster."""

    def run(
        self,
        make_worker: Callable[[], Worker],
        shards: Iterable[Shard],
        *,
        num_workers: int,
    ) -> Iterator[tuple[Shard, Made]]:
        """Make shards, in any order; yields each as it is done."""


class ShardFolder:
    """The shards of one stage.

    Args:
      folder: where they are.
      suffix: of their names, such as `.jsonl`.
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder, self._suffix = folder, suffix

    def find(self, shards: Iterable[Shard]) -> dict[str, Path]:
        """The paths of those shards that are there and sound, by name."""
        candidates: dict[str, list[Path]] = {}
        for path in sorted(self.folder.glob(f"*-*-*{self._suffix}")):
            candidates.setdefault(path.name.rpartition("-")[0], []).append(path)
        paths = {}
        for shard in shards:
            for path in candidates.get(_stem(shard), []):
                if path.name == self._name(shard, _digest(path)):
                    paths[shard.name] = path
        return paths

    def is_sound(self, path: Path) -> bool:
        """Whether a file is a whole shard, whatever it was made from."""
        return path.name.endswith(f"-{_digest(path)}{self._suffix}")

    def rejects_path(self, shard: Shard) -> Path:
        """Where the records lie that were set aside while the shard was made, if any were."""
        return self.folder / f"{_stem(shard)}.rejects.jsonl"

    def _name(self, shard: Shard, digest: str) -> str:
        return f"{_stem(shard)}-{digest}{self._suffix}"

    def make(
        self,
        make_worker: Callable[[], Worker],
        shards: Sequence[Shard],
        engine: Engine,
        *,
        num_workers: int = 1,
        description: str,
        unit: str,
    ) -> list[Path]:
        """Make the shards that are missing; the paths of all, in their order.

        Shards of the same name and another key stay until `remove_stale`.
        """
        paths = self.find(shards)
        missing = [shard for shard in shards if shard.name not in paths]
        total, left = (sum(s.num_units for s in some) for some in (shards, missing))
        if missing and left < total:
            logging.info("%s: %d of %d %s are done already", description, total - left, total, unit)
        num_rejects = 0
        with progress_bar(
            total=total, initial=total - left, desc=description, unit=f" {unit}"
        ) as bar:
            results = engine.run(make_worker, missing, num_workers=num_workers) if missing else ()
            for shard, made in results:
                _refuse_failure(shard, made)
                self.rejects_path(shard).unlink(missing_ok=True)
                if made.rejects:
                    num_rejects += len(made.rejects)
                    write_json_lines(self.rejects_path(shard), made.rejects)
                    bar.set_postfix_str(f"{num_rejects} set aside", refresh=False)
                path = self.folder / self._name(shard, _digest(made.content))
                with atomic_write(path, "wb") as file:
                    file.write(made.content)
                paths[shard.name] = path
                bar.update(shard.num_units)
        return [paths[shard.name] for shard in shards]

    def rejects(self, shards: Iterable[Shard]) -> dict[Path, list[dict[str, str]]]:
        """The records that were set aside while these shards were made, by their file."""
        paths = (self.rejects_path(shard) for shard in shards)
        return {path: list(read_json_lines(path)) for path in paths if path.is_file()}

    def remove_stale(self, shards: Sequence[Shard]) -> int:
        """Remove what these shards do not name any more; how many files that were."""
        current = {*self.find(shards).values(), *(self.rejects_path(shard) for shard in shards)}
        stale = [path for path in self.folder.glob("*") if path not in current]
        for path in stale:
            path.unlink()
        return len(stale)


def _refuse_failure(shard: Shard, made: Made) -> None:
    """A shard of which nothing could be done is no shard: the engine failed, not the records."""
    if made.num_records >= LEAST_TO_JUDGE and len(made.rejects) == made.num_records:
        raise UserError(
            f"{shard.name}: all of its {made.num_records} records failed, the first with: "
            f"{made.rejects[0]['reason']}"
        )


def content_digest(path: Path) -> str:
    """The digest of a shard's content, by its name."""
    return path.stem.rpartition("-")[2]


def _stem(shard: Shard) -> str:
    return f"{shard.name}-{shard.key}"


def _digest(content: bytes | Path) -> str:
    whole = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha256(whole).hexdigest()[:8]


def shard_key(*parts: str | bytes | Path) -> str:
    """A key of what a shard's content depends on: 16 hex digits."""
    return fingerprint(*parts)[:16]


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_write(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object a line, as the content of a shard."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()


def arrays_file(**arrays: np.ndarray) -> bytes:
    """Arrays by name as the content of an .npz file; equal arrays give equal bytes."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that `write_json_lines` wrote."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def check_rejects(
    stage: str, rejects: Mapping[Path, Sequence[Mapping[str, str]]], total: int, most: float
) -> None:
    """Tell how many records were set aside, and refuse to go on with too many.

    Args:
      stage: told to the user.
      rejects: by the file that they are in.
      total: records, of which they are.
      most: the share of them that may be.

    Raises:
      UserError: they are too many.
    """
    number = sum(map(len, rejects.values()))
    if not number:
        return
    reasons = Counter(record["reason"] for records in rejects.values() for record in records)
    common = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    message = f"{stage}: {number} of {total} records were set aside in {next(iter(rejects))}"
    message += f" and {len(rejects) - 1} more such files: " if len(rejects) > 1 else ": "
    if number > most * total:
        raise UserError(
            f"{message}{common}\nThat is more than config.prep.max_rejects={most} of them. Allow "
            "more, or mend the cause and remove the files beside these whose names begin alike: "
            "they are made again"
        )
    logging.warning("%s%s", message, common)
