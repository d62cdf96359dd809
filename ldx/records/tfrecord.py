"""TFRecord files: a writer, and a reader with random access that verifies every checksum.

A record is its length (uint64), the masked CRC32C of those 8 bytes, the data, and the masked
CRC32C of the data; all little-endian (tensorflow/core/lib/io/record_writer.h).
"""

import operator
import os
import struct
import weakref
from pathlib import Path
from typing import Any, SupportsIndex

import google_crc32c
import numpy as np

from ldx.common.errors import UserError
from ldx.records.schema import PREPARE_COMMAND

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _CHECKSUM.size
"""The bytes that a record takes beside its data."""


def masked_crc(data: bytes) -> int:
    """The rotated and shifted CRC32C by which TFRecord protects lengths and data."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class TFRecordWriter:
    """A writer of one TFRecord file; use it as a context manager, which also syncs to the disk."""

    def __init__(self, path: str | Path):
        """Create (or empty) the file."""
        self._file = open(path, "wb")  # noqa: SIM115
        self.num_records = 0
        self.num_data_bytes = 0

    def write(self, data: bytes) -> None:
        """Append one record."""
        length = len(data).to_bytes(8, "little")
        self._file.write(length + _CHECKSUM.pack(masked_crc(length)))
        self._file.write(data)
        self._file.write(_CHECKSUM.pack(masked_crc(data)))
        self.num_records += 1
        self.num_data_bytes += len(data)

    def close(self) -> None:
        """Flush, sync and close the file."""
        if not self._file.closed:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def __enter__(self) -> "TFRecordWriter":
        """Return the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


class TFRecordFile:
    """The records of one TFRecord file by number: `len(file)`, `file[i] -> bytes`.

    Opening the file goes from header to header and verifies the lengths; reading verifies the data.
    Reads share no position (pread), so threads and forked processes may use one object; a pickled
    one opens the file again and keeps the index.

    Raises:
      UserError: the file is missing, truncated or corrupted; the message names record and byte.
    """

    def __init__(self, path: str | Path):
        """Open and index the file."""
        self.path = Path(path)
        self._open()
        self._offsets = self._index()

    def __len__(self) -> int:
        """The number of records."""
        return len(self._offsets) - 1

    def __getitem__(self, number: SupportsIndex) -> bytes:
        """The data of one record, its checksum verified."""
        number = range(len(self))[operator.index(number)]
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        frame = os.pread(self._fd, end - start, start)
        if len(frame) != end - start:
            raise self._error("truncated since it was opened", number, start)
        length, length_crc = _HEADER.unpack_from(frame)
        data = frame[_HEADER.size : -_CHECKSUM.size]
        if length != len(data) or length_crc != masked_crc(frame[:8]):
            raise self._error("corrupted (length checksum)", number, start)
        if masked_crc(data) != _CHECKSUM.unpack_from(frame, len(frame) - _CHECKSUM.size)[0]:
            raise self._error("corrupted (data checksum)", number, start)
        return data

    def __repr__(self) -> str:
        """The path alone: nothing that changes between processes."""
        return f"TFRecordFile({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        """The path and the index, without the open file."""
        return {"path": self.path, "_offsets": self._offsets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again."""
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UserError(
                f"{self.path}: no such file; make the records with\n  {PREPARE_COMMAND}"
            ) from None
        weakref.finalize(self, os.close, self._fd)

    def _index(self) -> np.ndarray:
        """Offsets, int64[N + 1]: where each record starts, and where the last one ends."""
        size = os.fstat(self._fd).st_size
        offsets = [0]
        while (start := offsets[-1]) < size:
            number = len(offsets) - 1
            header = os.pread(self._fd, _HEADER.size, start)
            if len(header) < _HEADER.size:
                raise self._error("truncated", number, start)
            length, crc = _HEADER.unpack(header)
            if crc != masked_crc(header[:8]):
                raise self._error("corrupted (length checksum)", number, start)
            end = start + FRAME_BYTES + length
            if end > size:
                raise self._error("truncated", number, start)
            offsets.append(end)
        return np.array(offsets, np.int64)

    def _error(self, what: str, number: int, offset: int) -> UserError:
        return UserError(
            f"{self.path}: {what} in record {number}, which starts at byte {offset}; "
            f"delete the folder {self.path.parent} and make the records again with\n"
            f"  {PREPARE_COMMAND}"
        )
