"""The config and the folders of a run, as every stage sees them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import Engine
from data_prep.pipeline.settings import has_documents
from ldx.common.errors import UserError
from ldx.common.files import fingerprint, read_json

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


def config_fingerprint(workspace: Workspace, keys: tuple[str, ...]) -> str:
    """A hash of the values of config keys, and of the version of the stages."""
    values = {key: _config_value(workspace.config, key) for key in keys}
    return fingerprint(json.dumps([values, VERSION], sort_keys=True, default=str))


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
