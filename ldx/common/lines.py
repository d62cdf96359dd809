"""Text files read line by line, gzip or plain, with the bad lines collected."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from ldx.common.errors import UserError, listing


class Lines:
    """The numbered lines of a UTF-8 file, and what is wrong with them.

    Blank lines are skipped. A line that is not UTF-8, and a gzip file that breaks off, count as
    bad lines; the reader adds its own by `bad`, and `finish` raises them all at once. A file that
    cannot be opened is a UserError where the reading begins.

    Args:
      path: the file; gzip where its name ends in .gz.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.problems: list[str] = []
        self._num_lines = 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number = 0
        open_file = gzip.open if self.path.suffix == ".gz" else open
        try:
            with open_file(self.path, "rb") as file:
                for number, data in enumerate(file, 1):
                    try:
                        line = data.decode("utf-8")
                    except UnicodeDecodeError as error:
                        self.bad(number, f"not UTF-8 ({error.reason} at byte {error.start + 1})")
                        continue
                    if line.strip():
                        self._num_lines += 1
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

    def finish(self, wanted: str, *, max_bad: float = 0.0) -> None:
        """Raise when lines were bad.

        Args:
          wanted: what a good line looks like.
          max_bad: the share of bad lines up to which a warning is enough.

        Raises:
          UserError: names the first ten bad lines.
        """
        if not self.problems:
            return
        told = f"{self.path} has {len(self.problems)} bad line(s):\n{listing(self.problems)}\n"
        if len(self.problems) > max_bad * self._num_lines:
            raise UserError(f"{told}wanted: {wanted}")
        logging.warning("%sThey are left out", told)
