"""Ctrl-C and SIGTERM as a request that the program answers at a safe place."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Raised where the program stops on request, after everything that must be saved is saved."""

    def __init__(self, signum: int):
        super().__init__(f"signal {signum}")
        self.signum = signum


class StopRequest:
    """A context that notes SIGINT and SIGTERM, so that `check` raises them at a safe place.

    A second signal stops at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        """The signal that came, or None."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Take over the signals, if this is the main thread; no other thread can."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._previous = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to their earlier handlers."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        name = signal.Signals(signum).name
        print(f"\n{name}: stopping at the next safe place ...", file=sys.stderr, flush=True)
