"""A program that becomes a command, which is told to stop when the study that started it dies.

    python -m ldx.studies.child COMMAND ...

It is a program of its own because code between fork and exec may hang in a process with threads,
and JAX has some. Nothing heavy is imported here.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> None:
    """Ask for SIGTERM at the parent's death (Linux), then become `command`."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the request was made
            os.kill(os.getpid(), signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
