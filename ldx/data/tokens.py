"""A collection tokenised once: token ids of every text in memory-mapped files.

FOLDER/FINGERPRINT/{ids.npy, offsets.npy, meta.json}. The ids are those of the whole text (the
prompt is part of it), without special tokens or truncation, so every maximum length is served.
"""

import operator
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, fingerprint, read_json, write_json
from ldx.common.locks import locked
from ldx.common.progress import progress_bar

CHUNK_TEXTS = 8192
"""Texts of a chunk; a build that was killed goes on after its last whole chunk."""


class Texts(Protocol):
    """Texts by number: a list, or `ldx.records.sets.PassageTexts`."""

    def __len__(self) -> int:
        """The number of texts."""

    def __getitem__(self, number: int, /) -> str:
        """One text."""


class TextTokenizer(Protocol):
    """What the store needs of `ldx.models.tokenizer.Tokenizer`."""

    @property
    def fingerprint(self) -> str:
        """A hash that differs where any text could be tokenised differently."""

    @property
    def vocab_size(self) -> int:
        """The number that every id is below."""

    def encode(self, texts: list[str], /) -> list[np.ndarray]:
        """Token ids, without special tokens or truncation."""


class Tokens(Protocol):
    """Token ids by row, without special tokens: a `TokenStore`, or `TokensInMemory`."""

    @property
    def lengths(self) -> np.ndarray:
        """The numbers of tokens of the texts, int32 [N]."""

    def __len__(self) -> int:
        """N, the number of texts."""

    def __getitem__(self, row: SupportsIndex, /) -> np.ndarray:
        """The token ids of one text."""


class TokensInMemory:
    """Token ids that are already in memory."""

    def __init__(self, ids: Sequence[np.ndarray]):
        self._ids = ids
        self.lengths = np.array([len(x) for x in ids], np.int32)

    def __len__(self) -> int:
        """The number of texts."""
        return len(self._ids)

    def __getitem__(self, row: SupportsIndex) -> np.ndarray:
        """The token ids of one text."""
        return self._ids[operator.index(row)]


class TokenStore:
    """Token ids by row: `store[row]` is uint16 or int32 [length], `store.lengths` int32 [N]."""

    def __init__(self, folder: str | Path):
        """Map a finished store; use `open_or_build` where it may have to be built.

        Raises:
          UserError: the store is not there or its files do not fit together.
        """
        self.folder = Path(folder)
        meta = read_json(self.folder / "meta.json")
        try:
            self._ids = np.load(self.folder / "ids.npy", mmap_mode="r")
            self._offsets = np.load(self.folder / "offsets.npy", mmap_mode="r")
            self.lengths: np.ndarray = np.diff(self._offsets).astype(np.int32)
            fits = (
                self._offsets.shape == (meta["num_texts"] + 1,)
                and self._ids.shape == (meta["num_tokens"],)
                and self._ids.dtype == meta["dtype"]
                and self._offsets[0] == 0
                and self._offsets[-1] == meta["num_tokens"]
                and self.lengths.min(initial=0) >= 0
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise UserError(f"{self.folder}: damaged token store ({error})") from None
        if not fits:
            raise UserError(f"{self.folder}: damaged token store (sizes do not match meta.json)")

    @classmethod
    def open_or_build(
        cls,
        folder: str | Path,
        *,
        texts: Texts,
        tokenizer: TextTokenizer,
        key: str,
        description: str = "passages",
    ) -> "TokenStore":
        """Open the store of these texts and this tokenizer under `folder`; build it when missing.

        One process builds while others wait; a build that was killed goes on where it was.

        Args:
          folder: the folder of token stores.
          texts: the texts, prompts included; they are read only when building.
          tokenizer: the tokenizer of the store's ids.
          key: a text that changes whenever any of the texts does (content, join, cut and prompt).
          description: what the texts are, for progress bars and logs.
        """
        name = fingerprint(key, str(len(texts)), tokenizer.fingerprint)
        target = Path(folder) / name
        store = cls._open(target)
        if store:
            return store
        lock = target.with_name(f".{name}.lock")
        with locked(lock, f"another process tokenises the {description}"):
            store = cls._open(target)
            if store is None:
                _build(target, texts, tokenizer, description)
                store = cls(target)
        return store

    @classmethod
    def _open(cls, target: Path) -> "TokenStore | None":
        if not target.exists():
            return None
        try:
            return cls(target)
        except UserError as error:
            logging.warning("%s; it is built again", error)
            return None

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.lengths)

    def __getitem__(self, row: SupportsIndex) -> np.ndarray:
        """The token ids of one text, a view into the mapped file."""
        row = range(len(self))[operator.index(row)]
        return self._ids[self._offsets[row] : self._offsets[row + 1]]

    def __repr__(self) -> str:
        """The folder alone: nothing that changes between processes."""
        return f"TokenStore({str(self.folder)!r})"

    def __getstate__(self) -> dict[str, Any]:
        """The folder; the files are mapped again."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files again."""
        self.__init__(state["folder"])  # type: ignore[misc]


def _build(target: Path, texts: Texts, tokenizer: TextTokenizer, description: str) -> None:
    """Tokenise chunk by chunk into a hidden folder, then join the chunks and move them in."""
    work = target.with_name(f".{target.name}.building")
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32)
    starts = range(0, len(texts), CHUNK_TEXTS)
    chunks = [work / f"chunk-{start:012d}.npz" for start in starts]
    lengths = []
    with progress_bar(
        total=len(texts), desc=f"Tokenising {description}", unit="text", delay=2.0
    ) as progress:
        for start, chunk in zip(starts, chunks, strict=True):
            size = min(CHUNK_TEXTS, len(texts) - start)
            chunk_lengths = _chunk_lengths(chunk, size)
            if chunk_lengths is None:
                batch = [texts[number] for number in range(start, start + size)]
                chunk_lengths = _write_chunk(chunk, batch, tokenizer, dtype)
            lengths.append(chunk_lengths)
            progress.update(size)
    _join(store, chunks, lengths, dtype)
    meta = {
        "description": description,
        "num_texts": len(texts),
        "num_tokens": int(sum(int(x.sum()) for x in lengths)),
        "dtype": dtype.name,
        "tokenizer": tokenizer.fingerprint,
    }
    write_json(store / "meta.json", meta)
    if target.exists():
        damaged = work / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        os.rename(target, damaged)
    os.rename(store, target)
    shutil.rmtree(work, ignore_errors=True)


def _write_chunk(
    path: Path, texts: list[str], tokenizer: TextTokenizer, dtype: np.dtype
) -> np.ndarray:
    encoded = tokenizer.encode(texts)
    assert len(encoded) == len(texts), (len(encoded), len(texts))
    ids = np.concatenate([np.zeros(0, np.int32), *encoded])
    assert ids.min(initial=0) >= 0, "negative token id"
    assert ids.max(initial=0) < tokenizer.vocab_size, (ids.max(), tokenizer.vocab_size)
    lengths = np.array([len(x) for x in encoded], np.int64)
    with atomic_write(path, "wb") as file:
        np.savez(file, ids=ids.astype(dtype), lengths=lengths)
    return lengths


def _chunk_lengths(path: Path, num_texts: int) -> np.ndarray | None:
    """The lengths of a chunk that an earlier process finished; None where there is none."""
    if not path.exists():
        return None
    try:
        with np.load(path) as chunk:
            lengths, num_ids = chunk["lengths"], len(chunk["ids"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return lengths if len(lengths) == num_texts and lengths.sum() == num_ids else None


def _join(folder: Path, chunks: list[Path], lengths: list[np.ndarray], dtype: np.dtype) -> None:
    offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]), dtype=np.int64)
    with atomic_write(folder / "offsets.npy", "wb") as file:
        np.save(file, offsets)
    with atomic_write(folder / "ids.npy", "wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (int(offsets[-1]),)}
        np.lib.format.write_array_header_1_0(file, header)
        for path in chunks:
            with np.load(path) as chunk:
                file.write(chunk["ids"].data)
