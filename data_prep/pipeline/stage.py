"""Running a stage as a command: its flags, and the check whether its work is done already."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from data_prep.engines.flags import define_engine_flags, engine_from_flags
from data_prep.pipeline.workspace import Workspace, config_fingerprint, open_workspace
from ldx.common import cli
from ldx.common.errors import UserError
from ldx.common.files import fingerprint, read_json, write_json
from ldx.common.locks import hold_folder


@dataclass(frozen=True)
class Stage:
    """A stage: what it depends on, what it leaves, and the work itself.

    Attributes:
      name: the name of the stage, of its module, and of its record WORKDIR/prep/NAME.json.
      keys: the config keys whose change makes the stage stale; a section stands for all its keys.
      inputs: gives fingerprints or values of what the stage reads.
      outputs: gives the files that the stage leaves.
      work: does the work, and returns the counts to report.
    """

    name: str
    keys: tuple[str, ...]
    inputs: Callable[[Workspace], Mapping[str, Any]]
    outputs: Callable[[Workspace], list[Path]]
    work: Callable[[Workspace], dict[str, Any]]

    def main(self, argv: list[str]) -> None:
        """Run the stage as a command, with the workspace that the flags name."""
        cli.refuse_arguments(argv)
        workspace = workspace_from_flags()
        with hold_folder(workspace.workdir, f"data_prep.{self.name}"):
            self.run(workspace)

    def run(self, workspace: Workspace) -> dict[str, Any]:
        """Do the work unless it is done for the same config and inputs, and return the counts."""
        path = workspace.prep / f"{self.name}.json"
        made_from = self._made_from(workspace)
        if self._is_done(workspace, path, made_from):
            print(f"{self.name}: up to date")
            return read_json(path)["counts"]
        path.unlink(missing_ok=True)
        counts = self.work(workspace)
        outputs = fingerprint(*self.outputs(workspace))
        record = {"stage": self.name, "made_from": made_from, "outputs": outputs, "counts": counts}
        write_json(path, record)
        print(f"{self.name}: {_one_line(counts)}", flush=True)
        return counts

    def _made_from(self, workspace: Workspace) -> str:
        settings = config_fingerprint(workspace, self.keys)
        inputs = json.dumps(dict(self.inputs(workspace)), sort_keys=True, default=str)
        return fingerprint(settings, inputs)

    def _is_done(self, workspace: Workspace, path: Path, made_from: str) -> bool:
        outputs = self.outputs(workspace)
        if not path.is_file() or not all(output.is_file() for output in outputs):
            return False
        try:
            record = read_json(path)
        except UserError:
            return False
        same = isinstance(record, dict) and record.get("made_from") == made_from
        return same and record.get("outputs") == fingerprint(*outputs)


def define_flags(*, on_engine: bool) -> None:
    """Define --config, --workdir and, for what an engine may run, the flags of the engine."""
    cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of this run; the same for all stages")
    if on_engine:
        define_engine_flags()


def run_as_command(main: Callable[[list[str]], None], *, on_engine: bool = False) -> None:
    """Define the flags of a stage, run `main`, and exit.

    Args:
      main: the function to run.
      on_engine: whether an engine may do the work, so that there are flags for it.
    """
    define_flags(on_engine=on_engine)
    cli.run(main)


def workspace_from_flags() -> Workspace:
    """Open the workspace that the flags name, and check its config.

    Raises:
      UserError: a key is unknown or missing, or a value is not allowed.
    """
    config, workdir = cli.get_config(), cli.required_folder("workdir")
    return open_workspace(config, workdir, engine_from_flags())


def _one_line(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in counts.items() if isinstance(v, int | float | str))
