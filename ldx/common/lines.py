"""Text files read line by line, gzip or plain, with the bad lines collected."""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from ldx.common.errors import UserError, listing

BYTE_ORDER_MARK = "\ufeff"


class Lines:
    """The numbered lines of a UTF-8 file, and what is wrong with them.

    Blank lines are skipped, and so is a byte-order mark before the first line. A line that is not
    UTF-8 or has a NUL in it, and a gzip file that breaks off, count as bad lines; the caller adds
    its own by `bad`, and `finish` raises them all at once. A file that cannot be opened is a
    UserError as soon as reading begins.

    Args:
      path: the file, which is read as gzip where its name ends in .gz.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number = 0
        open_file = gzip.open if self.path.suffix == ".gz" else open
        try:
            with open_file(self.path, "rb") as file:
                for number, data in enumerate(file, 1):
                    try:
                        line = data.decode("utf-8")
                    except UnicodeDecodeError as error:
                        self.bad(number, not_utf8(data, error))
                        continue
                    if number == 1:
                        line = line.removeprefix(BYTE_ORDER_MARK)
                    if "\0" in line:
                        self.bad(number, "a NUL character; is it a text file?")
                    elif line.strip():
                        yield number, line
        except EOFError:
            self.bad(number + 1, "the gzip file is truncated; fetch or copy it again")
        except (gzip.BadGzipFile, zlib.error) as error:
            self.bad(number + 1, f"not a sound gzip file ({error}); fetch or copy it again")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None

    def bad(self, number: int, problem: str) -> None:
        """Note that a line is bad."""
        self.problems.append(f"{self.path}:{number}: {problem}")

    def finish(self, form: str) -> None:
        """Raise if any line was bad.

        Args:
          form: what a good line looks like.

        Raises:
          UserError: there are bad lines; the message names the first ten.
        """
        if self.problems:
            raise UserError(
                f"{self.path} has {len(self.problems)} bad line(s):\n{listing(self.problems)}\n"
                f"wanted: {form}"
            )


_SIGNS = {
    b"\x1f\x8b": "the file is gzip, so its name must end in .gz",
    b"\xff\xfe": "the file is UTF-16; convert it by iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "the file is UTF-16; convert it by iconv -f UTF-16 -t UTF-8",
    b"PK\x03\x04": "the file is a ZIP archive; unpack it",
    b"PAR1": "the file is Parquet, so its name must end in .parquet",
    b"\x28\xb5\x2f\xfd": "the file is Zstandard; unpack it by unzstd",
}
"""What files of other kinds begin with, and what to do about them."""


def not_utf8(data: bytes, error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are not UTF-8, and what to do."""
    for sign, words in _SIGNS.items():
        if data.startswith(sign):
            return f"not UTF-8: {words}"
    where = f"{error.reason} at byte {error.start + 1}"
    if error.reason == "unexpected end of data":
        return f"not UTF-8 ({where}): a letter is cut in two; fetch or copy the file again"
    # In a Western text letters with accents stand alone between plain ones; where bytes over 127
    # stand together, or some are UTF-8 all the same, another encoding is not for us to guess.
    letter = data[error.start : error.start + 1].decode("cp1252", "replace")
    is_western = letter.isalpha() and not re.search(rb"[\x80-\xff]{2}", data)
    if not is_western:
        return f"not UTF-8 ({where}); convert the file from its encoding to UTF-8"
    return (
        f"not UTF-8 ({where}); in Latin-1 or Windows-1252 this byte is {letter!r}: if that is the "
        "encoding, convert the file by iconv -f WINDOWS-1252 -t UTF-8"
    )
