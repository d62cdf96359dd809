"""The config and the folders of a run, as every stage sees them."""

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
from ldx.common.sections import check_seed
from ldx.models.student import check_model_section
from ldx.records.schema import check_template

STAGES_VERSION = 5
"""Raised when the same config and inputs give other outputs than before."""


@dataclass(frozen=True)
class Workspace:
    """The config of a run, the folders it reads and writes, and the engine it works with.

    Attributes:
      config: all sections.
      settings: the section `config.prep`, checked; stages read it here.
      workdir: the folder of the run.
      engine: where work in shards is done.
    """

    config: ConfigDict
    settings: PrepConfig
    workdir: Path
    engine: Engine

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
        return self.prep / "corpus" if has_documents(self.settings) else self.records

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
        name = self.settings.collection.partition("@")[0].rstrip("/").rpartition("/")[2]
        return name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")


def open_workspace(config: ConfigDict, workdir: Path, engine: Engine | None = None) -> Workspace:
    """The workspace of a config, what stages read of it checked.

    Args:
      config: as configs/base.py has it.
      workdir: the folder of the run, which may be new.
      engine: where work in shards is done; None: in this process.

    Raises:
      UserError: an unknown or missing key, or a value that cannot be.
    """
    settings = check_prep(config.prep.to_dict())
    check_model_section(config.model)
    check_template(config.data.passage_template)
    check_seed(config.seed)
    return Workspace(config, settings, workdir, engine or LocalEngine())


def config_fingerprint(workspace: Workspace, keys: tuple[str, ...]) -> str:
    """A hash of the values of config keys, and of the version of the stages."""
    values = {key: _config_value(workspace.config, key) for key in keys}
    return fingerprint(json.dumps([values, STAGES_VERSION], sort_keys=True, default=str))


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
