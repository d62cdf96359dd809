"""Orbax kept quiet: it writes pages of its internals to the logger that ldx's own lines use."""

import contextlib
import logging as std_logging
import os
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Hide Orbax's log lines below errors while it works for us; a level of DEBUG shows them.

    Orbax warns of the defaults it takes, and if it fails, it raises. Outside of this, what users
    log with Orbax themselves is untouched.
    """
    logger = logging.get_absl_logger()

    def is_shown(record: std_logging.LogRecord) -> bool:
        is_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
        is_detail = record.levelno < std_logging.ERROR
        return not (is_orbax and is_detail) or logger.isEnabledFor(std_logging.DEBUG)

    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)
