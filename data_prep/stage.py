"""What the stages share: their flags, their folders, and when one need not run again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from ldx import cli
from ldx.data.schema import check_template
from ldx.errors import UserError
from ldx.files import fingerprint, read_json, write_json
from ldx.settings import build, check_model_section, check_seed

VERSION = 2
"""Raised when the same config and inputs give other outputs than before."""


@dataclass(frozen=True)
class Workspace:
    """The config of a run and the folders it reads and writes."""

    config: ConfigDict
    workdir: Path

    @property
    def dataset(self) -> Path:
        """The collection in BEIR layout."""
        return Path(self.config.data.root or self.workdir / "dataset")

    @property
    def records(self) -> Path:
        """The TFRecords of the trainer."""
        return Path(self.config.data.records or self.workdir / "records")

    @property
    def prep(self) -> Path:
        """What stages hand to later stages."""
        return self.workdir / "prep"

    @property
    def baselines(self) -> Path:
        """TREC runs of the retrievers that the student is compared with."""
        return self.workdir / "baselines"

    @property
    def collection(self) -> str:
        """The name of the collection: that of its folder, or how it was made."""
        return self.dataset.name if self.config.data.root else self.config.prep.collection


@dataclass(frozen=True)
class Stage:
    """A stage: what it depends on, what it leaves, and the work itself.

    Attributes:
      name: also the name of its module, and of WORKDIR/prep/NAME.json.
      keys: the config keys whose change makes it stale; a section stands for all its keys.
      inputs: fingerprints or values of what it reads.
      outputs: the files it leaves.
      work: does it, and returns the counts it reports.
    """

    name: str
    keys: tuple[str, ...]
    inputs: Callable[[Workspace], Mapping[str, Any]]
    outputs: Callable[[Workspace], list[Path]]
    work: Callable[[Workspace], dict[str, Any]]

    def main(self, argv: list[str]) -> None:
        """Run as a command."""
        refuse_arguments(argv)
        workspace = workspace_from_flags()
        self.run(workspace)

    def run(self, workspace: Workspace) -> dict[str, Any]:
        """Do the work unless it is done already for the same config and inputs."""
        path = workspace.prep / f"{self.name}.json"
        made_from = self._made_from(workspace)
        if self._is_done(workspace, path, made_from):
            print(f"{self.name}: up to date")
            return read_json(path)["counts"]
        path.unlink(missing_ok=True)
        counts = self.work(workspace)
        made = fingerprint(*self.outputs(workspace))
        record = {"stage": self.name, "made_from": made_from, "outputs": made, "counts": counts}
        write_json(path, record)
        print(f"{self.name}: {_one_line(counts)}", flush=True)
        return counts

    def _made_from(self, workspace: Workspace) -> str:
        values = {key: _config_value(workspace.config, key) for key in self.keys}
        known = {"config": values, "inputs": dict(self.inputs(workspace)), "version": VERSION}
        return fingerprint(json.dumps(known, sort_keys=True, default=str))

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


def refuse_arguments(argv: list[str]) -> None:
    """Refuse what is no flag, such as a path without its flag's name."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; every setting is a flag: --name=value")


def define_flags() -> None:
    """Define --config and --workdir."""
    cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of this run; the same for all stages")


def run_as_command(main: Callable[[list[str]], None]) -> None:
    """Define the flags of a stage, run `main`, and exit."""
    define_flags()
    cli.run(main)


@dataclass(frozen=True)
class PrepConfig:
    """The section `config.prep`; configs/base.py explains its keys."""

    collection: str
    packages: tuple[str, ...]
    max_passages: int | None
    queries: str
    query_types: tuple[str, ...]
    max_queries: int | None
    num_held_out: int
    candidate_depth: int
    list_size: int
    teacher_weight: float | None
    rank_limit: int | None
    require_own_first: bool
    min_top_score_percentile: float | None
    dev_fraction: float

    def __post_init__(self) -> None:
        for key, least in (("list_size", 2), ("candidate_depth", 2), ("num_held_out", 0)):
            if getattr(self, key) < least:
                raise UserError(f"config.prep.{key}={getattr(self, key)}: wanted at least {least}")
        if not 0 <= self.dev_fraction < 1:
            raise UserError(
                f"config.prep.dev_fraction={self.dev_fraction}: wanted from 0 to under 1"
            )


def workspace_from_flags() -> Workspace:
    """The workspace that the flags name, its config checked.

    Raises:
      UserError: an unknown or missing key, or a value that cannot be.
    """
    config = cli.get_config()
    build(PrepConfig, config.prep.to_dict(), "prep")
    check_model_section(config.model)
    check_template(config.data.passage_template)
    check_seed(config.seed)
    return Workspace(config, Path(cli.required("workdir")))


def stage_counts(workspace: Workspace, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What finished stages counted, by stage.

    Raises:
      UserError: one has not been run.
    """
    return {
        name: read_json(needed(workspace.prep / f"{name}.json", name))["counts"] for name in names
    }


def needed(path: Path, stage: str) -> Path:
    """`path`, which an earlier stage left.

    Raises:
      UserError: it is not there.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `python -m data_prep.{stage}` first")
    return path


def file_fingerprints(paths: Mapping[str, Path]) -> dict[str, str]:
    """Fingerprints of the content of files."""
    return {name: fingerprint(path) for name, path in paths.items()}


def _config_value(config: ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if part not in value:
            raise UserError(f"the config has no key {key}")
        value = value[part]
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _one_line(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in counts.items() if isinstance(v, int | float | str))
