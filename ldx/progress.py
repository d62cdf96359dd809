"""Progress bars that read well on a terminal and in a file."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30  # where nobody sees a bar move


def progress_bar(*args: Any, **kwargs: Any) -> tqdm:
    """A tqdm bar that goes away when it is done, and seldom writes where there is no terminal."""
    interval = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    return tqdm(*args, leave=False, mininterval=interval, maxinterval=2 * interval, **kwargs)
