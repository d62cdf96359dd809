"""Near-duplicate passages, found by sorting: O(n log n) time, and bounded memory.

Source: the published preparation of CADET (arXiv 2505.19274, 2502.19712). To the letter:

1. Texts are compared as `comparable` leaves them. One of fewer than `min_chars` characters is
   dropped, and takes no part in what follows.
2. Of equal texts the lowest row stays, and it alone takes part in what follows.
3. The distinct texts are sorted by their code points. One is dropped when it is contained in (a
   substring of) one of the `window` texts that follow it. This finds texts that others begin with:
   they stand right before these.
4. The same is done with all distinct texts, those that step 3 dropped too, sorted by their reversed
   texts. This finds texts that others end with.

Step 4 with only what step 3 left would find less: a text may end another that begins a third, and
be in the middle of the third (68 more of MS MARCO's 41,634 passages in the TREC DL 2019 judgments).
Step 2 is not in the published code, where copies of one text take up the places of a window; here
all that it drops is dropped, and sometimes more.

Contained in a text that is dropped means contained in one that stays, for every step leads to a
longer text; `containers` names the one that stays. What stands in the middle of a longer text is
found only by way of others, or by chance.
"""

import array
import contextlib
import heapq
import itertools
import re
import shutil
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from ldx.common.errors import UserError
from ldx.common.progress import progress_bar

TEMPORARY_NAME = "near_duplicates.tmp"
ROW_DIGITS = 12
MAX_FILES = 64  # merged at once
MAX_BUFFER = 2**18  # bytes read or written at once
LINE_OVERHEAD = 64  # bytes that Python adds to a line in a list


class Reason(IntEnum):
    """Why a row is dropped, if it is."""

    KEPT = 0
    TOO_SHORT = 1
    EQUAL = 2
    CONTAINED = 3

    @property
    def text(self) -> str:
        """The reason in reports."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """What was found, by row.

    Attributes:
      reasons: int8 [N], each a Reason; EQUAL to a kept text as they are compared, or CONTAINED in
        one.
      containers: int64 [N]: the kept row that holds the text of an EQUAL or CONTAINED row, else -1.
    """

    reasons: np.ndarray
    containers: np.ndarray

    @property
    def dropped(self) -> np.ndarray:
        """Which rows are dropped, bool [N]."""
        return self.reasons != Reason.KEPT

    def counts(self) -> dict[str, int]:
        """How many rows there are of each reason, by its text."""
        numbers = np.bincount(self.reasons, minlength=len(Reason)).tolist()
        return {reason.text: numbers[reason] for reason in Reason}


def find_near_duplicates(
    texts: Iterable[str],
    *,
    folder: Path,
    window: int = 9,
    min_chars: int = 10,
    keep_digits: bool = False,
    memory_bytes: int = 2**28,
    progress: bool = True,
) -> NearDuplicates:
    """Which of some texts are near-duplicates, as the head of this file defines them.

    Args:
      texts: row after row; gone through once.
      folder: for temporary files, about twice as large as the texts; no other process may use it
        for the same. Texts that fit into half of `memory_bytes` are never written.
      window: how many neighbours in the order a text is compared with.
      min_chars: texts of fewer characters, normalised, are dropped.
      keep_digits: keep digits, so that tables and dates that differ in numbers alone are not equal.
      memory_bytes: about as much is used for sorting; 25 bytes a text come on top.
      progress: show a bar.

    Raises:
      UserError: the temporary files cannot be written.
    """
    lengths = array.array("i")  # bytes of each normalised text; -1: too short
    total = len(texts) if isinstance(texts, Sized) else None
    with _temporary(Path(folder)) as temporary:
        forwards = _Sorter(temporary, "forwards", memory_bytes // 2)
        bar = progress_bar(
            texts, total=total, desc="near-duplicates: sort", unit=" passages", disable=not progress
        )
        for row, text in enumerate(bar):
            key = _key(text, keep_digits)
            is_short = len(key) < min_chars or len(key.decode()) < min_chars
            lengths.append(-1 if is_short else len(key))
            if not is_short:
                forwards.add(key, row)
        containers = np.full(len(lengths), -1, np.int64)
        backwards = _Sorter(temporary, "backwards", memory_bytes // 2)
        distinct = _also_backwards(_bar(forwards, progress), backwards, containers)
        _note_contained(distinct, window, containers)
        _note_contained(_bar(backwards, progress), window, containers)
    _follow(containers)
    return NearDuplicates(_reasons(containers, np.array(lengths, np.int32)), containers)


def comparable(text: str, keep_digits: bool = False) -> str:
    """The text by which passages are compared.

    NFKC; without accents, digits (unless they are kept), punctuation, symbols, control characters;
    in lower case, with one space between words. Letters and their marks stay. Accents are combining
    diacritical marks (U+0300 ff. and their supplements), not the vowel signs of other scripts.

    >>> comparable("Café №5:  the *end*, 2024")
    'cafe no the end'
    """
    return _key(text, keep_digits).decode()


# ---- Normalised texts, in UTF-8: its order is that of code points, and so are its substrings.

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ACCENTS = ((0x300, 0x36F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F))
_ASCII = [chr(code) for code in range(128)]
_SPACE_AND_LOWER = bytes.maketrans(
    "".join(c for c in _ASCII if c.isspace() or c.isupper()).encode(),
    "".join(
        " " if c.isspace() else c.lower() for c in _ASCII if c.isspace() or c.isupper()
    ).encode(),
)
_DELETED = {
    keep_digits: "".join(
        c for c in _ASCII if not (c.isspace() or c.isalpha() or (keep_digits and c.isdigit()))
    ).encode()
    for keep_digits in (False, True)
}


def _key(text: str, keep_digits: bool) -> bytes:
    if not text.isascii():
        # NFKD without accents, composed again below, is NFKC without accents.
        text = unicodedata.normalize("NFKD", text).lower()
        text = _NOT_ASCII.sub(lambda match: match[0].translate(_TABLES[keep_digits]), text)
    data = text.encode().translate(_SPACE_AND_LOWER, _DELETED[keep_digits])
    data = b" ".join(data.split())
    return data if data.isascii() else unicodedata.normalize("NFC", data.decode()).encode()


class _Table(dict[int, int | str | None]):
    """What becomes of a character that is not ASCII, for str.translate; filled as it is used."""

    def __init__(self, keep_digits: bool):
        super().__init__()
        self._kept = ("L", "M", "Nl", "Nd", "No") if keep_digits else ("L", "M", "Nl")

    def __missing__(self, code: int) -> int | str | None:
        if chr(code).isspace():
            value: int | str | None = " "
        elif any(first <= code <= last for first, last in _ACCENTS):
            value = None
        else:
            value = code if unicodedata.category(chr(code)).startswith(self._kept) else None
        self[code] = value
        return value


_TABLES = {keep_digits: _Table(keep_digits) for keep_digits in (False, True)}


def _reversed(key: bytes) -> bytes:
    return key[::-1] if key.isascii() else key.decode()[::-1].encode()


# ---- Sorting what does not fit in memory


class _Sorter:
    """External merge sort of texts, equal ones by row.

    A text is a line: the text, a zero byte, the row. A zero byte is smaller than all that a
    normalised text has in it, so lines are in the order of their texts.
    """

    def __init__(self, folder: Path, name: str, memory_bytes: int):
        self._folder, self._name, self._memory_bytes = folder, name, memory_bytes
        self._buffer = max(512, min(MAX_BUFFER, memory_bytes // MAX_FILES))
        self._lines: list[bytes] = []
        self._used = 0
        self._files: list[Path] = []
        self._num_written = 0
        self.num_texts = 0

    def add(self, key: bytes, row: int) -> None:
        line = b"%b\0%0*d\n" % (key, ROW_DIGITS, row)
        self._lines.append(line)
        self.num_texts += 1
        self._used += len(line) + LINE_OVERHEAD
        if self._used > self._memory_bytes:
            self._lines.sort()
            self._files.append(self._write(self._lines))
            self._lines, self._used = [], 0

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """The texts in order; once, for the files are removed afterwards."""
        while len(self._files) > MAX_FILES:
            some, self._files = self._files[:MAX_FILES], self._files[MAX_FILES:]
            self._files.append(self._write(self._merge(some)))
        self._lines.sort()
        lines, self._lines = self._lines, []
        for line in self._merge(self._files, lines):
            yield line[: -ROW_DIGITS - 2], int(line[-ROW_DIGITS - 1 :])

    def __len__(self) -> int:
        return self.num_texts

    def _write(self, lines: Iterable[bytes]) -> Path:
        path = self._folder / f"{self._name}-{self._num_written}"
        self._num_written += 1
        try:
            with open(path, "wb", buffering=self._buffer) as file:
                file.writelines(lines)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); near-duplicates are found by "
                "sorting, which needs about twice the size of the corpus on this disk"
            ) from None
        return path

    def _merge(self, paths: list[Path], lines: Iterable[bytes] = ()) -> Iterator[bytes]:
        """The lines of sorted files, and sorted lines, in order; the files are removed."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(p, "rb", buffering=self._buffer)) for p in paths]
            yield from heapq.merge(*files, lines)
        for path in paths:
            path.unlink()


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """An empty folder that is removed at the end; what a killed run left goes at the start."""
    path = folder / TEMPORARY_NAME
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# ---- What is contained in what


def _also_backwards(
    texts: Iterable[tuple[bytes, int]], backwards: _Sorter, containers: np.ndarray
) -> Iterator[tuple[bytes, int]]:
    """The distinct ones of sorted texts, which are added to `backwards` too; notes the others."""
    last, first_row = b"", -1
    for key, row in texts:
        if key == last and first_row >= 0:
            containers[row] = first_row
            continue
        last, first_row = key, row
        backwards.add(_reversed(key), row)
        yield key, row


def _note_contained(
    texts: Iterable[tuple[bytes, int]], window: int, containers: np.ndarray
) -> None:
    """Note the container of every text that one of the next `window` texts contains."""
    ahead: deque[tuple[bytes, int]] = deque()
    for text in itertools.chain(texts, itertools.repeat(None, window)):
        if text is not None:
            ahead.append(text)
            if len(ahead) <= window:
                continue
        elif not ahead:
            return
        key, row = ahead.popleft()
        for other, other_row in ahead:
            if key in other:
                containers[row] = other_row
                break


def _follow(containers: np.ndarray) -> None:
    """Let every dropped row point to the kept one at the end of its chain."""
    dropped = np.flatnonzero(containers >= 0)
    while True:
        onwards = containers[containers[dropped]]  # doubles what was followed so far
        goes_on = onwards >= 0
        if not goes_on.any():
            return
        containers[dropped[goes_on]] = onwards[goes_on]


def _reasons(containers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    reasons = np.full(len(lengths), Reason.KEPT, np.int8)
    reasons[lengths < 0] = Reason.TOO_SHORT
    contained = np.flatnonzero(containers >= 0)
    is_equal = lengths[contained] == lengths[containers[contained]]
    reasons[contained] = np.where(is_equal, Reason.EQUAL, Reason.CONTAINED)
    return reasons


def _bar(texts: _Sorter, progress: bool) -> Iterable[tuple[bytes, int]]:
    return progress_bar(
        texts, desc="near-duplicates: compare", unit=" passages", disable=not progress
    )
