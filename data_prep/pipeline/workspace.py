"""The workspace of a run: its config, its folders and its engine, as every stage sees them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import Engine
from data_prep.pipeline.settings import PrepConfig, check_prep, has_documents
from ldx.common.errors import UserError
from ldx.common.files import fingerprint, read_json
from ldx.common.rules import check_values
from ldx.models.section import check_model_section
from ldx.records.schema import check_template

STAGES_VERSION = 5
"""This number is raised when the same config and inputs give other outputs than before."""


@dataclass(frozen=True)
class Workspace:
    """The config of a run, the folders it reads and writes, and the engine it works with.

    Attributes:
      config: the whole config.
      settings: the section `config.prep`, checked and typed, from which stages read its keys.
      workdir: the folder of the run.
      engine: the engine that does the work in shards.
    """

    config: ConfigDict
    settings: PrepConfig
    workdir: Path
    engine: Engine

    @property
    def dataset(self) -> Path:
        """The folder of the collection in BEIR layout."""
        return Path(self.config.data.root or self.workdir / "dataset")

    @property
    def records(self) -> Path:
        """The folder of the TFRecords that the trainer reads."""
        return Path(self.config.data.records or self.workdir / "records")

    @property
    def corpus_records(self) -> Path:
        """The folder of the corpus's passages: `records`, unless that holds written ones too."""
        return self.prep / "corpus" if has_documents(self.settings) else self.records

    @property
    def prep(self) -> Path:
        """The folder of the files that stages leave for later stages."""
        return self.workdir / "prep"

    @property
    def baselines(self) -> Path:
        """The folder of the TREC runs that the student is compared with."""
        return self.workdir / "baselines"

    @property
    def collection(self) -> str:
        """The name of the collection: that of its folder, or of the source it was made from."""
        if self.config.data.root:
            return self.dataset.name
        name = self.settings.collection.partition("@")[0].rstrip("/").rpartition("/")[2]
        return name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")


def open_workspace(config: ConfigDict, workdir: Path, engine: Engine | None = None) -> Workspace:
    """Open the workspace of a config, and check the sections that stages read.

    Args:
      config: a config with the keys of configs/base.py.
      workdir: the folder of the run, which may be new.
      engine: the engine that does the work in shards; None: this process.

    Raises:
      UserError: a key is unknown or missing, or a value is not allowed.
    """
    check_model_section(config.model)
    check_values(config.to_dict())
    settings = check_prep(config.prep.to_dict())
    check_template(config.data.passage_template)
    return Workspace(config, settings, workdir, engine or LocalEngine())


def config_fingerprint(workspace: Workspace, keys: tuple[str, ...]) -> str:
    """A hash of the values of config keys, and of the version of the stages."""
    values = {key: _config_value(workspace.config, key) for key in keys}
    if "prep.candidate_depth" in values:  # what "auto" stands for
        values["prep.candidate_depth"] = workspace.settings.depth
    return fingerprint(json.dumps([values, STAGES_VERSION], sort_keys=True, default=str))


def stage_counts(workspace: Workspace, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The counts that finished stages recorded, by stage.

    Raises:
      UserError: a stage has not been run.
    """
    return {
        name: read_json(needed(workspace.prep / f"{name}.json", name))["counts"] for name in names
    }


def needed(path: Path, stage: str) -> Path:
    """Check that an earlier stage left a file, and return its path.

    Raises:
      UserError: the file does not exist.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `python -m data_prep.{stage}` first")
    return path


def file_fingerprints(paths: Mapping[str, Path]) -> dict[str, str]:
    """Fingerprints of the contents of files, under the same names."""
    return {name: fingerprint(path) for name, path in paths.items()}


def _config_value(config: ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if part not in value:
            raise UserError(f"the config has no key {key}")
        value = value[part]
    return value.to_dict() if isinstance(value, ConfigDict) else value
