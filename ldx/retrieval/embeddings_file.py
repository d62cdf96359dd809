"""Embeddings of a corpus in a file: written block by block, and carried on after a kill.

FOLDER/NAME.npy is a finished matrix [N, D]. Beside it are hidden .NAME.npy.part, the rows done so
far, .NAME.npy.json, what they are of and how many they are, and .NAME.npy.lock.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import fingerprint, read_json, write_json
from ldx.common.locks import locked
from ldx.common.types import Params
from ldx.data.tokens import Texts
from ldx.retrieval.encoder import Encoder, Kind

Dtype = Literal["float32", "float16"]


def encode_to_file(
    encoder: Encoder,
    params: Params,
    texts: Texts,
    path: str | Path,
    *,
    kind: Kind,
    key: str,
    dtype: Dtype = "float32",
    description: str = "",
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Embeddings of queries or passages in an .npy file, made where they are not there yet.

    After a kill the work goes on after the last finished block, to the same bits on the same
    devices. A file of another key is replaced. One process embeds while others wait.

    Args:
      encoder: of the student, on devices of this process.
      params: the student's parameters; they are part of the key, as are prompt and length.
      texts: without prompt; they are read block by block.
      path: the file, NAME.npy.
      kind: which prompt and maximum length to use.
      key: changes whenever a text does.
      dtype: of the file; float16 takes half the room and is precise enough for search.
      description: shown beside the progress bar and in messages; "" shows none.
      check: called between micro-batches; what it raises ends the work.

    Returns:
      [len(texts), D] in the order of the texts, memory-mapped, read-only.

    Raises:
      UserError: the disk has no room for the file.
    """
    shape = (len(texts), encoder.student.embedding_size)
    whole_key = fingerprint(encoder.fingerprint(params, kind), key, str(shape), dtype)
    matrix = _MatrixFile(Path(path), whole_key, shape, np.dtype(dtype))
    array = matrix.open()
    if array is not None:
        return array
    with locked(matrix.lock, f"another process embeds the {description or 'texts'}"):
        start = matrix.prepare()
        blocks = encoder.encode_blocks(
            params, texts, kind=kind, start=start, description=description, check=check
        )
        _write_blocks(blocks, matrix.write)
        matrix.finish()
    array = matrix.open()
    assert array is not None, path
    return array


def _write_blocks(
    blocks: Iterator[tuple[int, np.ndarray]], write: Callable[[int, np.ndarray], None]
) -> None:
    """Write each block in a thread while the devices work on the next."""
    with ThreadPoolExecutor(1) as writing:
        written: Future[None] | None = None
        for start, rows in blocks:
            if written:
                written.result()
            written = writing.submit(write, start, rows)
        if written:
            written.result()


class _MatrixFile:
    """An .npy file that grows by rows, and takes its name once it is whole.

    Args:
      path: the finished file.
      key: of its content.
      shape: of the finished matrix.
      dtype: of its numbers.
    """

    def __init__(self, path: Path, key: str, shape: tuple[int, int], dtype: np.dtype):
        self._path, self._key, self._shape, self._dtype = path, key, shape, dtype
        self._part = path.with_name(f".{path.name}.part")
        self._progress = path.with_name(f".{path.name}.json")
        self.lock = path.with_name(f".{path.name}.lock")
        header = io.BytesIO()
        facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, facts)
        self._header = header.getvalue()

    def open(self) -> np.ndarray | None:
        """The finished matrix, memory-mapped; None where it is missing or of another key."""
        if self._part.exists() or self._num_done() != self._shape[0]:
            return None
        try:
            array = np.load(self._path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return array if array.shape == self._shape and array.dtype == self._dtype else None

    def prepare(self) -> int:
        """Make ready for writing.

        Returns:
          The number of rows that are there already.

        Raises:
          UserError: the disk has no room for the rest.
        """
        if self.open() is not None:
            return self._shape[0]
        num_done = self._num_done()
        size = self._part.stat().st_size if self._part.exists() else 0
        if num_done >= 0 and self._end(num_done) <= size:
            self._check_space(self._end(self._shape[0]) - self._end(num_done))
            logging.info("%s: going on after %d of %d texts", self._path, num_done, self._shape[0])
            return num_done
        if num_done == self._shape[0]:
            logging.warning("%s is missing or damaged and is made again", self._path)
        for stale in (self._path, self._part):
            stale.unlink(missing_ok=True)
        self._check_space(self._end(self._shape[0]))
        self._part.write_bytes(self._header)
        self._write_progress(0)
        return 0

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write rows from row `start` on; they count once they are on the disk."""
        with open(self._part, "r+b") as file:
            file.seek(self._end(start))
            file.write(np.ascontiguousarray(rows, self._dtype).data)
            file.flush()
            os.fsync(file.fileno())
        self._write_progress(start + len(rows))

    def finish(self) -> None:
        """Give the file its name."""
        if self._part.exists():
            os.replace(self._part, self._path)

    def _end(self, num_rows: int) -> int:
        """Bytes of the file up to the end of a row."""
        return len(self._header) + num_rows * self._shape[1] * self._dtype.itemsize

    def _num_done(self) -> int:
        """The number of finished rows of this key; -1 where the file is of another."""
        try:
            progress = read_json(self._progress)
            return progress["num_done"] if progress["key"] == self._key else -1
        except (UserError, KeyError, TypeError):
            return -1

    def _write_progress(self, num_done: int) -> None:
        write_json(self._progress, {"key": self._key, "num_done": num_done})

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free < needed:
            raise UserError(
                f"{self._path}: {self._shape[0]} embeddings of {self._shape[1]} {self._dtype} "
                f"numbers need {needed / 1e6:,.0f} MB more, and {free / 1e6:,.0f} MB are free; "
                "make room, then run the same command again"
            )
