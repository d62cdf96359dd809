"""The training lists of a study: cells that want the same share one run of data_prep.

DIR/data/NAME-KEY holds one; KEY hashes all that data_prep may read, the collection's content among
it. A new one of a corpus that another has prepared begins as a copy of it, and data_prep itself
redoes what is stale.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from ldx.common.files import fingerprint
from ldx.studies.declare import Cell, differing_keys
from ldx.studies.experiment import canonical, write_experiment
from ldx.studies.jobs import FINISHED_NAME, LOG_NAME
from ldx.studies.samples import collection_fingerprint
from ldx.training.settings import MAY_DIFFER

_CORPUS_KEYS = ("collection", "packages", "max_passages")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A run of data_prep.

    Attributes:
      folder: its workdir.
      config: the experiment it reads.
      corpus: equal where passages and model are, so that most of the work is.
    """

    folder: Path
    config: dict[str, Any]
    corpus: str

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def records(self) -> Path:
        """Where the training lists come to be."""
        return self.folder / "records"

    @property
    def dataset(self) -> Path:
        """The collection: that of the config, or the one data_prep makes."""
        return Path(self.config["data"]["root"] or self.folder / "dataset")

    def write_config(self) -> Path:
        """The config file for data_prep."""
        return write_experiment(self.folder, self.config)


def prepared_for(cell: Cell, root: str, seed: int, folder: Path) -> Preparation:
    """What a cell needs prepared.

    Args:
      cell: the cell.
      root: its collection's folder, "" where data_prep makes one.
      seed: of the preparation.
      folder: DIR/data.
    """
    config = {**cell.config, "seed": seed}
    config["data"] = {**config["data"], "root": root, "records": ""}
    content = collection_fingerprint(root) if root else ""
    relevant = _what_is_read(config)
    corpus = fingerprint(
        content,
        canonical(relevant["model"]),
        canonical(relevant["data"]),
        canonical({key: config["prep"][key] for key in _CORPUS_KEYS}),
    )
    collection = cell.dataset or (Path(root).name if root else config["prep"]["collection"])
    name = f"{Path(collection).name}-{fingerprint(content, canonical(relevant))[:12]}"
    return Preparation(folder / name, config, corpus)


def _what_is_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an experiment that data_prep may read, without paths."""
    data = config["data"]
    kl = config["loss"].get("listwise_kl", {})
    return {
        "seed": config["seed"],
        "model": {k: v for k, v in config["model"].items() if f"model.{k}" not in MAY_DIFFER},
        "data": {key: data[key] for key in ("passage_template", "max_chars")},
        "split": config["eval"]["split"],
        "teacher_temperature": kl.get("teacher_temperature"),
        "student_temperature": kl.get("student_temperature"),
        "prep": {key: value for key, value in config["prep"].items() if key != "python"},
    }


def begin_from_another(wanted: Preparation, others: Sequence[Preparation]) -> None:
    """Copy the finished preparation of the same corpus whose config is nearest, if there is one."""
    finished = [
        other
        for other in others
        if other.corpus == wanted.corpus and (other.folder / FINISHED_NAME).is_file()
    ]
    if not wanted.folder.exists() and finished:
        nearest = min(finished, key=lambda other: differing_keys(other.config, wanted.config))
        logging.info("%s begins as a copy of %s", wanted.name, nearest.name)
        staging = wanted.folder.with_name(f".{wanted.name}.{os.getpid()}.tmp")
        try:
            ignore = shutil.ignore_patterns(FINISHED_NAME, LOG_NAME)
            shutil.copytree(nearest.folder, staging, ignore=ignore)
            os.rename(staging, wanted.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    wanted.write_config()
