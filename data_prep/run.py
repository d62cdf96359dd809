"""All stages in order, each in a process of its own: from a collection to training lists.

    python -m data_prep.run --config=FILE.py --workdir=DIR [--dry-run] [--engine=local|ray]

A stage whose config and inputs are unchanged is skipped, so the same command goes on after a kill.
--dry-run says what all of it will cost, and does nothing.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from data_prep.engines.flags import without_engine_flags
from data_prep.pipeline.config_file import save_config
from data_prep.pipeline.order import GRADED_STAGES, STAGES, STAGES_ON_ENGINES, stages_of
from data_prep.pipeline.stage import run_as_command, workspace_from_flags
from data_prep.pipeline.workspace import Workspace, open_workspace
from data_prep.preflight.checks import (
    check_collection,
    check_config,
    check_models,
    check_packages,
    check_vllm,
)
from ldx.common import cli
from ldx.common.configs import Config, plain_config
from ldx.common.errors import UserError
from ldx.common.files import folder_path
from ldx.common.locks import INHERITED, hold_folder

SECTIONS = ("seed", "model", "data", "train", "eval", "prep")
"""What the stages read of a config."""


def _interpreters(workspace: Workspace) -> dict[str, str]:
    """The Python of each stage: this one, or that of an environment that the config names.

    Raises:
      UserError: a stage that there is not, or no such program.
    """
    programs = workspace.settings.python
    for stage, python in programs.items():
        if stage not in STAGES + GRADED_STAGES:
            known = ", ".join(dict.fromkeys(STAGES + GRADED_STAGES))
            raise UserError(f"config.prep.python.{stage}: there is no such stage; they are {known}")
        if shutil.which(python) is None:
            raise UserError(
                f"config.prep.python.{stage}={python!r}: no such program; wanted the Python of an "
                "environment in which ldx is installed, such as .venv-vllm/bin/python"
            )
    return {s: programs.get(s, sys.executable) for s in stages_of(workspace.settings)}


class StageFailed(UserError):
    """A stage failed, and said why itself."""

    def __init__(self, name: str, exit_code: int):
        super().__init__(f"the stage {name} failed; it said why on the lines above")
        self.name, self.exit_code = name, exit_code


class StageStopped(KeyboardInterrupt):
    """Ctrl-C came, and the stage under way has ended."""

    def __init__(self, exit_code: int):
        super().__init__()
        self.exit_code = exit_code


def _run_stage(python: str, name: str, arguments: Sequence[str], workdir: Path, lock: int) -> None:
    """Run a stage with these flags, in a workdir that this process holds by the lock.

    Raises:
      StageFailed: it ended with an error.
      StageStopped: Ctrl-C came.
    """
    # A terminal sends Ctrl-C to all: the stage, which inherits this, leaves it to this command.
    with _handling(signal.SIGINT, signal.SIG_IGN):
        process = subprocess.Popen(
            [python, "-m", f"data_prep.{name}", *arguments],
            # A stage goes on where this command is killed, so it must hold the workdir itself.
            pass_fds=[lock] if lock >= 0 else [],
            env=os.environ | {INHERITED: str(workdir.absolute())},
        )
    try:
        code = process.wait()
    except BaseException as stop:
        code = _end(process)
        if isinstance(stop, KeyboardInterrupt):
            raise StageStopped(code) from None
        raise
    if code:
        raise StageFailed(name, code if code > 0 else 128 - code)


@contextlib.contextmanager
def _handling(signum: signal.Signals, handler: Any) -> Iterator[None]:
    """Handle a signal so for a while, where this can be: in the main thread of a program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, previous or signal.SIG_DFL)


def _end(process: subprocess.Popen) -> int:
    """End a stage in order, or, when Ctrl-C comes again, at once; its exit code."""
    process.terminate()
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.kill()
        return process.wait()


def _run_stages(
    interpreters: Mapping[str, str], arguments: Sequence[str], workdir: Path, lock: int
) -> None:
    """Run every stage with those of these flags that it has, in a workdir held by the lock.

    Asked to end, the stage that is under way is ended as well.
    """
    others = without_engine_flags(arguments)
    ended = _handling(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    with ended:
        for name, python in interpreters.items():
            given = arguments if name in STAGES_ON_ENGINES else others
            _run_stage(python, name, given, workdir, lock)


def prepare(config: Config, workdir: str | Path, *, stage_flags: Sequence[str] = ()) -> Path:
    """Make training lists for a corpus: all stages in order, each in a process of its own.

    What is done already for the same config and inputs is not done again.

    Args:
      config: an experiment, such as `configs.demo.get_config()`, its plain form, or the path of its
        file, such as "configs/demo.py:smoke".
      workdir: the folder of the run.
      stage_flags: further flags of the stages, such as "--engine=ray".

    Returns:
      The folder of the records, which `ldx.train` reads.

    Raises:
      UserError: something that was given is wrong, or a stage failed, which said why itself.
    """
    plain = plain_config(config, SECTIONS)
    workdir = folder_path("workdir", workdir).absolute()
    workspace = open_workspace(ConfigDict(plain), workdir)
    check_config(workspace)
    interpreters = _interpreters(workspace)
    check_collection(workspace)
    check_packages(workspace)
    check_models(workspace)
    check_vllm(workspace)
    with hold_folder(workspace.workdir, "ldx.prepare") as lock:
        config_flag = f"--config={save_config(workspace.config, workspace.prep)}"
        arguments = [config_flag, f"--workdir={workspace.workdir}", *stage_flags]
        _run_stages(interpreters, arguments, workspace.workdir, lock)
    return workspace.records


def main(argv: list[str]) -> None:
    """Run every stage with the flags of this command."""
    cli.refuse_arguments(argv)
    workspace = workspace_from_flags()
    check_config(workspace)
    interpreters = _interpreters(workspace)
    check_collection(workspace)
    if flags.FLAGS["dry-run"].value:
        from data_prep.preflight.costs import costs_table
        from data_prep.preflight.dry_run import estimate

        print(costs_table(estimate(workspace)), flush=True)
    check_packages(workspace)
    check_models(workspace)
    check_vllm(workspace)
    if flags.FLAGS["dry-run"].value:
        return
    try:
        with hold_folder(workspace.workdir, "data_prep.run") as lock:
            _run_stages(interpreters, sys.argv[1:], workspace.workdir, lock)
    except StageStopped as stop:
        # A stage that ended in order said "stopped" itself.
        message = "" if stop.exit_code > 128 else "stopped\n"
        print(f"{message}the same command goes on", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except StageFailed as failure:
        print(f"data_prep: the stage {failure.name} failed", file=sys.stderr)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    flags.DEFINE_bool("dry-run", False, "Say what the stages will cost, and do nothing")
    run_as_command(main, on_engine=True)
