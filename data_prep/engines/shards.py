"""Work in shards: each is a file whose name tells what it was made from; none is made twice.

A shard's path is FOLDER/NAME-KEY-DIGEST.SUFFIX: KEY is a hash of everything that the content
depends on, DIGEST a hash of the content. A shard is written under a temporary name and renamed. A
file whose content fits its digest need not be made again. Where a key changes the name changes, so
only the shards that a change concerns are made.
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

from ldx.common.errors import UserError, listing
from ldx.common.files import atomic_write, fingerprint
from ldx.common.progress import progress_bar

LEAST_TO_JUDGE = 8
"""Where at least so many records of a shard failed, and none did not, the engine has failed."""

NUM_SHOWN = 3
"""How many records that were set aside a message shows."""

Payload = Mapping[str, Any]
"""The plain values and arrays that a worker needs to make a shard."""


@dataclass(frozen=True)
class Shard:
    """A shard to be made.

    Attributes:
      name: a name that is unique in the folder, such as `question-00003`.
      key: a hash of everything that decides the content.
      num_units: how many units, such as queries, the shard counts on the progress bar.
      payload: makes the values that the worker needs; it is called only if the shard is missing.
    """

    name: str
    key: str
    num_units: int
    payload: Callable[[], Payload] = field(repr=False)


@dataclass(frozen=True)
class Made:
    """The content that a worker made for a shard.

    Attributes:
      content: the content of the file.
      rejects: the records that were set aside, with at least an `id` and a `reason` each.
      num_records: the number of all records, those set aside included; 0 where none can fail.
    """

    content: bytes
    rejects: Sequence[Mapping[str, str]] = ()
    num_records: int = 0


Worker = Callable[[Payload], Made]
"""A function that makes one shard after another; it holds what they share, such as a model."""


class Engine(Protocol):
    """The place where workers run: this process, or a Ray cluster."""

    def run(
        self,
        make_worker: Callable[[], Worker],
        shards: Iterable[Shard],
        *,
        num_workers: int,
    ) -> Iterator[tuple[Shard, Made]]:
        """Make shards, in any order, and yield each when it is done.

        Args:
          make_worker: makes a worker.
          shards: the shards to make.
          num_workers: how many threads may call one worker at a time.
        """


class ShardFolder:
    """A folder with the shards of one stage.

    Args:
      folder: the path of the folder.
      suffix: the suffix of the files, such as `.jsonl`.
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder, self._suffix = folder, suffix

    def find(self, shards: Iterable[Shard]) -> dict[str, Path]:
        """The paths of the shards that exist and are sound, by the name of the shard."""
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
        """Whether a file is a complete shard, whatever it was made from."""
        return path.name.endswith(f"-{_digest(path)}{self._suffix}")

    def rejects_path(self, shard: Shard) -> Path:
        """The path for the records that were set aside while the shard was made."""
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
        """Make the shards that are missing; return the paths of all shards, in their order.

        Shards of the same name and another key stay until `remove_stale`.

        Args:
          make_worker: makes a worker.
          shards: the shards that the stage needs.
          engine: the engine that makes the missing ones.
          num_workers: how many threads may call one worker at a time.
          description: the words beside the progress bar.
          unit: the word for the units that the progress bar counts.
        """
        paths = self.find(shards)
        missing = [shard for shard in shards if shard.name not in paths]
        total, left = (sum(s.num_units for s in group) for group in (shards, missing))
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
        """The records that were set aside while these shards were made, by their file's path."""
        paths = (self.rejects_path(shard) for shard in shards)
        return {path: list(read_json_lines(path)) for path in paths if path.is_file()}

    def remove_stale(self, shards: Sequence[Shard]) -> int:
        """Remove the files that belong to none of these shards; return how many were removed."""
        current = {*self.find(shards).values(), *(self.rejects_path(shard) for shard in shards)}
        stale = [path for path in self.folder.glob("*") if path not in current]
        for path in stale:
            path.unlink()
        return len(stale)


def _refuse_failure(shard: Shard, made: Made) -> None:
    """Raise a UserError where all records of a shard failed: then the engine failed, not they."""
    if made.num_records >= LEAST_TO_JUDGE and len(made.rejects) == made.num_records:
        raise UserError(
            f"{shard.name}: all of its {made.num_records} records failed, the first with: "
            f"{made.rejects[0]['reason']}"
        )


def content_digest(path: Path) -> str:
    """The digest of a shard's content, which its file name holds."""
    return path.stem.rpartition("-")[2]


def _stem(shard: Shard) -> str:
    return f"{shard.name}-{shard.key}"


def _digest(content: bytes | Path) -> str:
    whole = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha256(whole).hexdigest()[:8]


def shard_key(*parts: str | bytes | Path) -> str:
    """The key of a shard: 16 hex digits that hash what its content depends on."""
    return fingerprint(*parts)[:16]


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_write(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """The content of a shard with one JSON object a line."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()


def arrays_file(**arrays: np.ndarray) -> bytes:
    """The content of an .npz file with named arrays; equal arrays give equal bytes."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that `write_json_lines` wrote."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def check_rejects(
    stage: str,
    rejects: Mapping[Path, Sequence[Mapping[str, str]]],
    total: int,
    most: float,
    *,
    advice: str,
) -> None:
    """Warn of records that were set aside, and refuse to go on with too many.

    Args:
      stage: the name of the work in the message.
      rejects: the records that were set aside, by the path of their file. The reasons are counted
        by the `kind` of a record, where it has one.
      total: the number of all records, those set aside included.
      most: the largest share of records that may be set aside.
      advice: a sentence that says how to mend the cause and go on.

    Raises:
      UserError: more than that share was set aside.
    """
    records = [record for of_file in rejects.values() for record in of_file]
    if not records:
        return
    reasons = Counter(record.get("kind", record["reason"]) for record in records)
    common = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    message = f"{stage}: {len(records)} of {total} records were set aside: {common}"
    others = f" and {len(rejects) - 1} more such files" if len(rejects) > 1 else ""
    place = f"{next(iter(rejects))}{others}"
    if len(records) > most * total:
        first = [f"{record['id']}: {record['reason']}" for record in records[:NUM_SHOWN]]
        raise UserError(
            f"{message}\n{listing(first, NUM_SHOWN, total=len(records))}\n"
            f"All of them are in {place}. They are more than config.prep.max_rejects={most} of all "
            f"records; allow more, or mend the cause. {advice}"
        )
    logging.warning("%s; they are in %s", message, place)
