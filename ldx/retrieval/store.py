"""An embedding store: the texts of a run are embedded once for a model and its parameters.

Preparation, dev evaluations, a guide and the report ask for embeddings of the same texts. The store
keeps them by content: by the model with its parameters, and by the token ids as the model reads
them, prompt included and cut. Processes may read and write it at the same time.

FOLDER/MODEL/SHARD.npy holds embeddings [n, D], memory-mapped, and SHARD.keys.npy their keys; a
shard counts once its keys are there, and is never changed. Deleting FOLDER frees the disk and costs
nothing but time.

Shapes: N texts, D dimensions.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from ldx.common.files import atomic_write, fingerprint
from ldx.common.types import Params
from ldx.models.student import Student
from ldx.parallel.mesh import to_host

STORE_NAME = "embeddings"
"""The folder of a run's store, in its WORKDIR."""
MAX_BYTES = 16 * 2**30
"""How large a store may grow; beyond it, the models that were not used for longest are dropped."""
MIN_FREE_BYTES = 2**30
"""The room on the disk that a store leaves to others."""
HEADER_BYTES = 512
"""What the two files of a shard take beside their numbers, at most."""
VERSION = "1"
"""Part of every key; to be raised when the code of the models changes what they compute."""
KEYS_SUFFIX = ".keys.npy"
MAX_SORTED_PARTS = 32


@functools.lru_cache(maxsize=8)
def get_store(workdir: Path) -> "EmbeddingStore":
    """The store of a run's folder; asked again, the same one."""
    return EmbeddingStore(workdir / STORE_NAME)


def text_keys(ids: Sequence[np.ndarray]) -> np.ndarray:
    """Keys uint64 [N, 2] of texts given as token ids; equal texts have equal keys."""
    digests = (
        hashlib.blake2b(np.ascontiguousarray(x, "<i4").data, digest_size=16).digest() for x in ids
    )
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


class EmbeddingStore:
    """The embeddings of texts by many models, in a folder.

    Args:
      folder: made when the first embeddings are written.
      max_bytes: how large it may grow.

    Attributes:
      num_requested: how many embeddings this process asked for.
      num_embedded: how many of them were missing, so that a model embedded their texts.
    """

    def __init__(self, folder: str | Path, max_bytes: int = MAX_BYTES):
        self.folder = Path(folder)
        self.num_requested = 0
        self.num_embedded = 0
        self._max_bytes = max_bytes
        self._room = 0  # bytes that may still be written, as far as is known
        self._models: dict[str, ModelEmbeddings] = {}
        self._recent_keys: list[_ModelKey] = []
        self._is_writable = True

    def key(self, student: Student, params: Params) -> str:
        """The name of a student with these parameters, on this kind of device."""
        leaves = jax.tree.leaves(params)
        for recent in self._recent_keys:
            if recent.is_of(student, leaves):
                return recent.key
        contents = (to_host(leaf).tobytes() for leaf in leaves)
        key = fingerprint(VERSION, jax.default_backend(), student.architecture, *contents)
        references = [weakref.ref(leaf) for leaf in leaves]
        recent = _ModelKey(student.architecture, references, key)
        self._recent_keys = [recent, *self._recent_keys][:4]
        return key

    def of(self, student: Student, params: Params) -> "ModelEmbeddings":
        """The embeddings by a student with these parameters."""
        key = self.key(student, params)
        if key not in self._models:
            self._models[key] = ModelEmbeddings(self, self.folder / key, student.embedding_size)
        return self._models[key]

    def drop(self, key: str) -> None:
        """Delete the embeddings by a model that nobody will ask for again."""
        self._models.pop(key, None)
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def take_room(self, folder: Path, num_bytes: int) -> bool:
        """Whether a model's folder may grow by `num_bytes`; older models make room for it."""
        if not self._is_writable:
            return False
        num_bytes += HEADER_BYTES
        if num_bytes > self._room:
            # Other processes write too, so the folder is measured again after a while.
            most = max(num_bytes, self._max_bytes // 16)
            self._room = min(self._make_room(folder, num_bytes), most)
        if num_bytes > self._room:
            self.stop_writing(
                f"there is no room for {num_bytes / 2**20:.1f} MB more, where at most "
                f"{self._max_bytes / 2**30:.0f} GB are used and {MIN_FREE_BYTES / 2**30:.0f} GB of "
                "the disk are left free; the folder may be deleted"
            )
            return False
        self._room -= num_bytes
        return True

    def _make_room(self, folder: Path, num_bytes: int) -> int:
        """Drop models, but not that of `folder`, the one that was not used for longest first.

        Returns:
          The bytes that may then be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sizes = {each: _size(each) for each in self.folder.iterdir() if each.is_dir()}
        total = sum(sizes.values())
        on_disk = total + shutil.disk_usage(self.folder).free - MIN_FREE_BYTES
        limit = min(self._max_bytes, on_disk)
        if sizes.get(folder, 0) + num_bytes > limit:
            return 0
        for other in sorted(sizes.keys() - {folder}, key=_last_use):
            if total + num_bytes <= limit:
                break
            logging.debug("%s: the embeddings by the model %s are dropped", self.folder, other.name)
            self.drop(other.name)
            total -= sizes[other]
        return limit - total

    def stop_writing(self, reason: object) -> None:
        """Keep no more embeddings, and say why; texts are then embedded whenever asked for."""
        logging.warning("%s: embeddings are no longer kept: %s", self.folder, reason)
        self._is_writable = False

    def summary(self) -> str:
        """How much of what was asked for had to be embedded."""
        num_kept = self.num_requested - self.num_embedded
        return (
            f"{self.num_embedded} texts were embedded; the other {num_kept} of "
            f"{self.num_requested} came from the embedding store"
        )


class _ModelKey(NamedTuple):
    """The key of a student with parameters that are still in memory."""

    architecture: str
    leaves: list["weakref.ref[Any]"]
    key: str

    def is_of(self, student: Student, leaves: list[Any]) -> bool:
        return (
            self.architecture == student.architecture
            and len(self.leaves) == len(leaves)
            and all(mine() is leaf for mine, leaf in zip(self.leaves, leaves, strict=True))
        )


class _Places(NamedTuple):
    """Where texts are: sorted by the first halves of their keys."""

    keys: np.ndarray  # uint64 [N, 2]
    shards: np.ndarray  # int32 [N], -1: missing
    rows: np.ndarray  # int64 [N]

    @classmethod
    def sorted(cls, keys: np.ndarray, shards: np.ndarray, rows: np.ndarray) -> "_Places":
        order = np.argsort(keys[:, 0], kind="stable")
        return cls(keys[order], shards[order], rows[order])


class ModelEmbeddings:
    """The embeddings of texts by one model, with one set of parameters.

    Args:
      store: what it is a part of.
      folder: its files.
      embedding_size: D.
    """

    def __init__(self, store: EmbeddingStore, folder: Path, embedding_size: int):
        self._store = store
        self._folder = folder
        self._embedding_size = embedding_size
        self._shards: list[np.ndarray] = []
        self._names: set[str] = set()  # of shards that were read, and of those that cannot be
        self._parts: list[_Places] = []

    def read(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings that are there.

        Args:
          keys: of the texts, uint64 [N, 2].

        Returns:
          bool [N], whether the embedding of a text is there; and those embeddings, float32 [n, D].
        """
        shards, rows = self._find(keys)
        if (shards < 0).any() and self._read_new_shards():
            shards, rows = self._find(keys)
        is_there = shards >= 0
        shards, rows = shards[is_there], rows[is_there]
        embeddings = np.zeros((len(rows), self._embedding_size), np.float32)
        for shard in np.unique(shards):
            mask = shards == shard
            embeddings[mask] = self._shards[shard][rows[mask]]
        self._store.num_requested += len(keys)
        if len(rows):
            with contextlib.suppress(OSError):  # a store that cannot be written can be read
                os.utime(self._folder)
        return is_there, embeddings

    def write(self, keys: np.ndarray, embeddings: np.ndarray) -> None:
        """Keep embeddings float32 [N, D] of texts with these keys [N, 2], if there is room."""
        self._store.num_embedded += len(keys)
        name = hashlib.blake2b(keys.tobytes(), digest_size=8).hexdigest()
        try:
            if not self._store.take_room(self._folder, embeddings.nbytes + keys.nbytes):
                return
            for suffix, array in ((".npy", embeddings), (KEYS_SUFFIX, keys)):
                with atomic_write(self._folder / f"{name}{suffix}", "wb") as file:
                    np.save(file, array)
        except FileNotFoundError:
            return  # another process dropped the folder meanwhile
        except OSError as error:
            self._store.stop_writing(error)
            return
        self._read_shard(name)

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each key, int32 [N], -1 where it is missing; and its row there."""
        shards, rows = np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int64)
        for part in self._parts:
            numbers = np.flatnonzero(shards < 0)
            places = np.searchsorted(part.keys[:, 0], keys[numbers, 0])
            places = np.minimum(places, len(part.keys) - 1)
            is_here = (part.keys[places] == keys[numbers]).all(axis=1)
            shards[numbers[is_here]] = part.shards[places[is_here]]
            rows[numbers[is_here]] = part.rows[places[is_here]]
        return shards, rows

    def _read_new_shards(self) -> bool:
        """Map the shards that were written since, also by others; whether there are any."""
        num_shards = len(self._shards)
        for path in sorted(self._folder.glob(f"*{KEYS_SUFFIX}")):
            name = path.name.removesuffix(KEYS_SUFFIX)
            if name not in self._names:
                self._read_shard(name)
        return len(self._shards) > num_shards

    def _read_shard(self, name: str) -> None:
        """Map a shard, unless it is gone or damaged."""
        path = self._folder / f"{name}.npy"
        try:
            keys = np.load(self._folder / f"{name}{KEYS_SUFFIX}")
            embeddings = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            return
        except (OSError, ValueError, EOFError) as error:
            logging.warning("%s cannot be read, its texts are embedded again: %s", path, error)
            self._names.add(name)
            return
        self._names.add(name)
        shape = (len(keys), self._embedding_size)
        if keys.shape != (len(keys), 2) or embeddings.shape != shape or not len(keys):
            logging.warning("%s is damaged, its texts are embedded again", path)
            return
        shard = np.full(len(keys), len(self._shards), np.int32)
        self._shards.append(embeddings)
        self._parts.append(_Places.sorted(keys, shard, np.arange(len(keys))))
        if len(self._parts) > MAX_SORTED_PARTS:
            joined = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
            self._parts = [_Places.sorted(*joined)]


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    return 0


def _last_use(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
