"""All stages in order, each in a process of its own: from a collection to training lists.

    python -m data_prep.run --config=FILE.py --workdir=DIR [--dry-run] [--engine=local|ray]

A stage whose config and inputs are unchanged is skipped, so the same command goes on after a kill.
--dry-run says what all of it will cost, and does nothing.
"""

import shutil
import signal
import subprocess
import sys

from absl import flags

from data_prep.pipeline.order import GRADED_STAGES, STAGES, stages_of
from data_prep.pipeline.stage import refuse_arguments, run_as_command, workspace_from_flags
from data_prep.pipeline.workspace import Workspace
from data_prep.preflight.checks import check_collection, check_config, check_models, check_vllm
from ldx.common.errors import UserError


def _interpreters(workspace: Workspace) -> dict[str, str]:
    """The Python of each stage: this one, or that of an environment that the config names.

    Raises:
      UserError: a stage that there is not, or no such program.
    """
    named = workspace.settings.python
    for stage, python in named.items():
        if stage not in STAGES + GRADED_STAGES:
            known = ", ".join(dict.fromkeys(STAGES + GRADED_STAGES))
            raise UserError(f"config.prep.python.{stage}: there is no such stage; they are {known}")
        if shutil.which(python) is None:
            raise UserError(
                f"config.prep.python.{stage}={python!r}: no such program; wanted the Python of an "
                "environment in which ldx is installed, such as .venv-vllm/bin/python"
            )
    return {s: named.get(s, sys.executable) for s in stages_of(workspace.settings)}


def _run_stage(python: str, name: str, arguments: list[str]) -> None:
    """Run a stage with these flags; exit as it does when it fails, having said why itself."""
    # A terminal sends Ctrl-C to all: the stage, which inherits this, leaves it to this command.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen([python, "-m", f"data_prep.{name}", *arguments])
    try:
        signal.signal(signal.SIGINT, previous or signal.default_int_handler)
        code = process.wait()
    except BaseException as stop:
        code = _end(process)
        if isinstance(stop, KeyboardInterrupt):
            said = "" if code > 128 else "stopped\n"  # a stage that ended in order said so itself
            print(f"{said}the same command goes on", file=sys.stderr, flush=True)
            sys.exit(128 + signal.SIGINT)
        raise
    if code:
        print(f"data_prep: the stage {name} failed", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)


def _end(process: subprocess.Popen) -> int:
    """End a stage in order, or, when Ctrl-C comes again, at once; its exit code."""
    process.terminate()
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.kill()
        return process.wait()


def main(argv: list[str]) -> None:
    """Run every stage with the flags of this command."""
    refuse_arguments(argv)
    workspace = workspace_from_flags()
    check_config(workspace)
    interpreters = _interpreters(workspace)
    check_collection(workspace)
    if flags.FLAGS["dry-run"].value:
        from data_prep.preflight.dry_run import estimate, render

        print(render(estimate(workspace)))
        return
    check_models(workspace)
    check_vllm(workspace)
    # Asked to end, end the stage that is under way as well.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    for name, python in interpreters.items():
        _run_stage(python, name, sys.argv[1:])


if __name__ == "__main__":
    flags.DEFINE_bool("dry-run", False, "Say what the stages will cost, and do nothing")
    run_as_command(main)
