"""Orbax kept quiet: it writes pages of its internals to the logger that ldx's own lines use."""

import contextlib
import logging as std_logging
import os
import sys
from collections.abc import Iterator

from absl import logging

_ABSL = os.path.dirname(logging.__file__)


def _caller(record: std_logging.LogRecord) -> str:
    """The file that wrote a line which is being logged.

    A record names absl itself where the program made the logger before absl was imported, because
    the logger then does not know absl's frames.
    """
    if not record.pathname.startswith(_ABSL):
        return record.pathname
    frame = sys._getframe()
    was_absl = False
    while frame.f_back is not None:
        frame = frame.f_back
        is_absl = frame.f_code.co_filename.startswith(_ABSL)
        if was_absl and not is_absl:
            return frame.f_code.co_filename
        was_absl = is_absl
    return record.pathname


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Hide Orbax's log lines below errors while it works for us; a level of DEBUG shows them.

    Orbax warns of the defaults it takes, and if it fails, it raises. Outside of this, what users
    log with Orbax themselves is untouched.
    """
    logger = logging.get_absl_logger()

    def is_shown(record: std_logging.LogRecord) -> bool:
        if record.levelno >= std_logging.ERROR or logger.isEnabledFor(std_logging.DEBUG):
            return True
        return f"{os.sep}orbax{os.sep}" not in _caller(record)

    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)
