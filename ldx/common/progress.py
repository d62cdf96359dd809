"""Progress bars that read well on a terminal and in a file."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30  # where nobody sees a bar move


class _Lines(tqdm):
    """A bar for a file: it writes whole lines, where tqdm would overwrite one line."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line; an empty message would clear the bar, and a file has nothing to clear."""
        if msg != "":
            self.fp.write(f"{self if msg is None else msg}\n")
            self.fp.flush()
        return msg != ""


def progress_bar(*args: Any, **kwargs: Any) -> tqdm:
    """A tqdm bar that disappears at its end; without a terminal, one line every 30 seconds."""
    kwargs = {"leave": False, "miniters": 1} | kwargs
    if sys.stderr.isatty():
        return tqdm(*args, **kwargs)
    pace = {"mininterval": SECONDS_BETWEEN_LINES, "delay": SECONDS_BETWEEN_LINES, "ncols": 0}
    return _Lines(*args, **kwargs | pace)
