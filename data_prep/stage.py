"""What the stages share: their flags, their folders, and when one need not run again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from data_prep.engine import LocalEngine, define_engine_flags, engine_from_flags
from data_prep.settings import PrepConfig, has_documents
from data_prep.shards import Engine
from ldx.common import cli
from ldx.common.errors import UserError
from ldx.common.files import fingerprint, read_json, write_json
from ldx.common.sections import build, check_seed
from ldx.models.student import check_model_section
from ldx.records.schema import check_template

VERSION = 5
"""Raised when the same config and inputs give other outputs than before."""


@dataclass(frozen=True)
class Workspace:
    """The config of a run, the folders it reads and writes, and the engine it works with."""

    config: ConfigDict
    workdir: Path
    engine: Engine = field(default_factory=LocalEngine)

    @property
    def dataset(self) -> Path:
        """The collection in BEIR layout."""
        return Path(self.config.data.root or self.workdir / "dataset")

    @property
    def records(self) -> Path:
        """The TFRecords of the trainer."""
        return Path(self.config.data.records or self.workdir / "records")

    @property
    def corpus_records(self) -> Path:
        """Where the passages of the corpus are: in `records`, unless written ones join them."""
        return self.prep / "corpus" if has_documents(self.config.prep) else self.records

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
        if self.config.data.root:
            return self.dataset.name
        name = self.config.prep.collection.partition("@")[0].rstrip("/").rpartition("/")[2]
        return name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")


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


def config_fingerprint(workspace: Workspace, keys: tuple[str, ...]) -> str:
    """A hash of the values of config keys, and of the version of the stages."""
    values = {key: _config_value(workspace.config, key) for key in keys}
    return fingerprint(json.dumps([values, VERSION], sort_keys=True, default=str))


def refuse_arguments(argv: list[str]) -> None:
    """Refuse what is no flag, such as a path without its flag's name."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; every setting is a flag: --name=value")


def define_flags() -> None:
    """Define --config, --workdir, and those of the engine."""
    cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of this run; the same for all stages")
    define_engine_flags()


def run_as_command(main: Callable[[list[str]], None]) -> None:
    """Define the flags of a stage, run `main`, and exit."""
    define_flags()
    cli.run(main)


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
    return Workspace(config, Path(cli.required("workdir")), engine_from_flags())


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
