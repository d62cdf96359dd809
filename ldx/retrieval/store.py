"""An embedding store: a text is embedded once for a model, whoever asks for it.

Preparation, dev evaluations, the report and search ask for embeddings of the same texts. The store
keeps them by content: by the model with its parameters, and by the token ids as the model reads
them, prompt included and cut. Any process may read and write it at any time.

FOLDER/MODEL/SHARD.npy holds embeddings [n, D], memory-mapped, and SHARD.keys.npy their keys; a
shard counts once its keys are there, and is never changed. Deleting FOLDER frees the disk and costs
nothing but time.
"""

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

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
KEYS_SUFFIX = ".keys.npy"


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
      num_asked: how many embeddings this process asked for.
      num_embedded: how many of them were in no store, so that the model embedded their texts.
    """

    def __init__(self, folder: str | Path, max_bytes: int = MAX_BYTES):
        self.folder = Path(folder)
        self._max_bytes = max_bytes
        self._models: dict[str, ModelEmbeddings] = {}
        self.num_asked = 0
        self.num_embedded = 0

    def of(self, student: Student, params: Params) -> "ModelEmbeddings":
        """The embeddings by a student with these parameters."""
        leaves = (to_host(leaf).tobytes() for leaf in jax.tree.leaves(params))
        key = fingerprint(student.architecture, *leaves)
        if key not in self._models:
            # A file that was mapped stays readable, so old models need not be kept.
            self._models = {key: ModelEmbeddings(self, self.folder / key)}
        return self._models[key]

    def has_room(self, folder: Path, num_bytes: int) -> bool:
        """Whether a model's folder may grow; the models not used for longest are dropped first."""
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        sizes = {each: _size(each) for each in folders if each.is_dir()}
        total = sum(sizes.values()) + num_bytes
        for other in sorted(sizes.keys() - {folder}, key=_used_at):
            if total <= self._max_bytes:
                break
            logging.info("%s is full: embeddings of the model %s go", self.folder, other.name)
            shutil.rmtree(other, ignore_errors=True)
            total -= sizes[other]
        return total <= self._max_bytes

    def summary(self) -> str:
        """How much of what was asked for had to be embedded."""
        return f"{self.num_embedded} texts embedded, of {self.num_asked} asked for"


class ModelEmbeddings:
    """The embeddings of texts by one model, with one set of parameters."""

    def __init__(self, store: EmbeddingStore, folder: Path):
        self._store = store
        self._folder = folder
        self._shards: dict[str, np.ndarray] = {}
        self._names: list[str] = []
        # Sorted by the first half of the keys; where a text is.
        self._keys = np.zeros((0, 2), np.uint64)
        self._places = np.zeros((0, 2), np.int64)  # number of the shard, row

    def read(self, keys: np.ndarray, output: np.ndarray) -> np.ndarray:
        """Copy the embeddings that are there.

        Args:
          keys: of the texts, uint64 [N, 2].
          output: float32 [N, D], whose rows are set where an embedding is there.

        Returns:
          bool [N], whether the embedding of a text is missing.
        """
        places = self._find(keys)
        if (places < 0).any() and self._read_new_shards(output.shape[1]):
            places = self._find(keys)
        is_there = places >= 0
        shards, rows = self._places[places[is_there]].T
        numbers = np.flatnonzero(is_there)
        for shard in np.unique(shards):
            mask = shards == shard
            output[numbers[mask]] = self._shards[self._names[shard]][rows[mask]]
        self._store.num_asked += len(keys)
        self._store.num_embedded += int((~is_there).sum())
        if is_there.any():
            with contextlib.suppress(OSError):  # a read-only store is a store
                os.utime(self._folder)
        return ~is_there

    def write(self, keys: np.ndarray, embeddings: np.ndarray) -> None:
        """Keep embeddings float32 [N, D] of texts with these keys [N, 2], if there is room."""
        if not self._store.has_room(self._folder, embeddings.nbytes + keys.nbytes):
            return
        name = hashlib.blake2b(keys.tobytes(), digest_size=8).hexdigest()
        for suffix, array in ((".npy", embeddings), (KEYS_SUFFIX, keys)):
            with atomic_write(self._folder / f"{name}{suffix}", "wb") as file:
                np.save(file, array)

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """The place of each key, int64 [N]; -1 where it is missing."""
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        places = np.searchsorted(self._keys[:, 0], keys[:, 0])
        places = np.minimum(places, len(self._keys) - 1)
        return np.where((self._keys[places] == keys).all(axis=1), places, -1)

    def _read_new_shards(self, size: int) -> bool:
        """Map the shards that were written since, also by others; whether there are any."""
        found, places = [self._keys], [self._places]
        for path in sorted(self._folder.glob(f"*{KEYS_SUFFIX}")):
            name = path.name.removesuffix(KEYS_SUFFIX)
            if name in self._shards:
                continue
            shard = _open(path, self._folder / f"{name}.npy", size)
            if shard is not None:
                keys, self._shards[name] = shard
                found.append(keys)
                rows = np.arange(len(keys))
                places.append(np.stack([np.full(len(keys), len(self._names)), rows], axis=1))
                self._names.append(name)
        if len(found) == 1:
            return False
        keys, where = np.concatenate(found), np.concatenate(places)
        order = np.argsort(keys[:, 0], kind="stable")
        self._keys, self._places = keys[order], where[order]
        return True


def _open(keys_path: Path, path: Path, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys and mapped embeddings of a shard; None where it is gone or damaged."""
    try:
        keys, embeddings = np.load(keys_path), np.load(path, mmap_mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logging.warning("%s cannot be read and is left out: %s", path, error)
        return None
    is_sound = keys.dtype == np.uint64 and keys.ndim == 2 and keys.shape[1] == 2
    if not is_sound or embeddings.shape != (len(keys), size) or embeddings.dtype != np.float32:
        logging.warning("%s is damaged and is left out", path)
        return None
    return keys, embeddings


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    return 0


def _used_at(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
