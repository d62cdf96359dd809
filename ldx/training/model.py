"""The model to evaluate or to search with: a folder, a package, a hub name, or a run's workdir."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import fingerprint, read_json
from ldx.common.types import Params
from ldx.models.st_folder import EXPORT_NAME
from ldx.models.student import Student, load_student
from ldx.records.manifest import Manifest
from ldx.training.checkpoint import best_params
from ldx.training.settings import CONFIG_NAME

CHECKPOINTS_NAME = "checkpoints"


@dataclass(frozen=True, eq=False)
class Model:
    """A student with the parameters to use, and a fingerprint of both."""

    student: Student
    params: Params
    fingerprint: str


def load_model(path: str, **overrides: Any) -> Model:
    """Load what `path` names; of a run's workdir, the best checkpoint.

    Args:
      path: a folder in HF or sentence-transformers form, "package:...", "org/name@REVISION", or
        a workdir of ldx.train.
      **overrides: arguments of `load_student` that differ from what the model, or the config of
        the run, declares; None changes nothing.

    Raises:
      UserError: there is no such model.
    """
    overrides = {key: value for key, value in overrides.items() if value is not None}
    workdir = Path(path).expanduser()
    if not (workdir / CHECKPOINTS_NAME).is_dir():
        student = load_student(path, **overrides)
        return Model(student, student.params, student.fingerprint)
    config = read_json(workdir / CONFIG_NAME)
    if not isinstance(config, dict) or "model" not in config:
        raise UserError(f"{workdir / CONFIG_NAME} has no section model; it is no config of ldx")
    student = load_student(**(config["model"] | overrides))
    params, step = best_params(workdir, student.params)
    logging.info("%s: the parameters of step %d, the best", workdir, step)
    return Model(student, params, fingerprint(student.fingerprint, *_content(params)))


def declared_template(path: str | None) -> str | None:
    """How a run's workdir, or its export, joins title and text.

    None where `path` is neither, or where the run had sources that join them differently.
    """
    folder = Path(path or "").expanduser()
    if path and (folder / CHECKPOINTS_NAME).is_dir():
        data = read_json(folder / CONFIG_NAME)["data"]
        if not data.get("sources"):
            return data["passage_template"]
        records = [source["records"] for source in data["sources"].values()]
        templates = {Manifest.read(folder).passage_template for folder in records}
        return templates.pop() if len(templates) == 1 else None
    if path and (folder / EXPORT_NAME).is_file():
        return read_json(folder / EXPORT_NAME).get("passage_template")
    return None


def _content(params: Params) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
