"""The training lists of a study: cells that need the same lists share one run of data_prep.

DIR/data/NAME-KEY holds such a run; KEY hashes everything that data_prep may read, including the
content of the collection. Where another run has prepared the same corpus, a new one begins as a
copy of it, and data_prep redoes what is stale.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from ldx.common.files import fingerprint
from ldx.retrieval.store import STORE_NAME
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
      folder: the workdir of the run.
      config: the experiment that it reads.
      corpus: a key that is equal where passages and model are, so that most of the work is shared.
    """

    folder: Path
    config: dict[str, Any]
    corpus: str

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def records(self) -> Path:
        """The folder of the training lists."""
        return self.folder / "records"

    @property
    def dataset(self) -> Path:
        """The folder of the collection: that of the config, or the one that data_prep makes."""
        return Path(self.config["data"]["root"] or self.folder / "dataset")

    def write_config(self) -> Path:
        """Write the config file for data_prep; its path."""
        return write_experiment(self.folder, self.config)


def prepared_for(cell: Cell, root: str, seed: int, folder: Path) -> Preparation:
    """The run of data_prep that a cell needs.

    Args:
      cell: the cell.
      root: the folder of its collection; "" where data_prep makes the collection.
      seed: the seed of the run.
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
    """The part of an experiment that data_prep may read, without its paths."""
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


def share_folder(workdir: Path, folder: Path, name: str) -> None:
    """Let FOLDER/NAME be the folder WORKDIR/NAME, which all cells and preparations share."""
    (workdir / name).mkdir(exist_ok=True)
    if not (folder / name).exists():
        os.symlink(os.path.relpath(workdir / name, folder), folder / name)


def begin_from_another(
    preparation: Preparation, others: Sequence[Preparation], workdir: Path
) -> None:
    """Make a folder ready: a copy of the most similar finished preparation, if there is any."""
    finished = [
        other
        for other in others
        if other.corpus == preparation.corpus and (other.folder / FINISHED_NAME).is_file()
    ]
    if not preparation.folder.exists() and finished:
        nearest = min(finished, key=lambda other: differing_keys(other.config, preparation.config))
        logging.info("%s begins as a copy of %s", preparation.name, nearest.name)
        staging = preparation.folder.with_name(f".{preparation.name}.{os.getpid()}.tmp")
        try:
            ignore = shutil.ignore_patterns(FINISHED_NAME, LOG_NAME, STORE_NAME)
            shutil.copytree(nearest.folder, staging, ignore=ignore)
            os.rename(staging, preparation.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    preparation.write_config()
    share_folder(workdir, preparation.folder, STORE_NAME)
