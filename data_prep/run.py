"""All stages in order, each in a process of its own: from a collection to training lists.

    python -m data_prep.run --config=FILE.py --workdir=DIR

A stage whose config and inputs are unchanged is skipped, so the same command goes on after a kill.
"""

import signal
import subprocess
import sys

from data_prep.stage import refuse_arguments, run_as_command, workspace_from_flags

STAGES = ("corpus", "generate_queries", "mine", "score", "write_lists", "baselines")


def _run_stage(name: str, arguments: list[str]) -> None:
    """Run a stage with these flags; exit as it does when it fails, having said why itself."""
    process = subprocess.Popen([sys.executable, "-m", f"data_prep.{name}", *arguments])
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        print(f"data_prep: the stage {name} failed", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)


def main(argv: list[str]) -> None:
    """Run every stage with the flags of this command."""
    refuse_arguments(argv)
    workspace_from_flags()
    # Asked to end, end the stage that is under way as well.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    for name in STAGES:
        _run_stage(name, sys.argv[1:])


if __name__ == "__main__":
    run_as_command(main)
