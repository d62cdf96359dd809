"""The model to evaluate or to search with: a folder, a package, a hub name, or a run's workdir."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import fingerprint, read_json
from ldx.common.types import Params
from ldx.models.st_folder import EXPORT_NAME
from ldx.models.student import load_student
from ldx.records.manifest import Manifest
from ldx.records.schema import check_template
from ldx.retrieval.model import Model
from ldx.retrieval.retrieve import DEFAULT_TEMPLATE
from ldx.training.checkpoint import CHECKPOINTS_NAME, best_params
from ldx.training.settings import CONFIG_NAME


def load_model(path: str | Path, *, passage_template: str | None = None, **overrides: Any) -> Model:
    """Load a model to embed and search with; for a run's workdir, its best checkpoint.

    Args:
      path: a folder in Hugging Face or sentence-transformers form, "package:NAME==VERSION",
        "org/name@REVISION" on the hub, or a workdir of `ldx.train`.
      passage_template: the template that joins the title and the text of a passage, such as
        "{title} {text}"; None means as the model was trained, where it says so.
      **overrides: arguments of `ldx.models.student.load_student` that differ from what the model,
        or the config of the run, declares, such as passage_max_length; None changes nothing.

    Raises:
      UserError: there is no such model.
    """
    if passage_template:
        check_template(passage_template)
    overrides = {key: value for key, value in overrides.items() if value is not None}
    workdir = Path(path).expanduser()
    if not (workdir / CHECKPOINTS_NAME).is_dir():
        student = load_student(str(path), **overrides)
        template = passage_template or declared_template(path) or DEFAULT_TEMPLATE
        return Model(student, student.params, student.fingerprint, str(path), template)
    config = read_json(workdir / CONFIG_NAME)
    if not isinstance(config, dict) or "model" not in config:
        raise UserError(f"{workdir / CONFIG_NAME} has no section model; it is no config of ldx")
    student = load_student(**(config["model"] | overrides))
    params, step = best_params(workdir, student.params)
    logging.info("%s: the parameters of step %d, the best", workdir, step)
    template = passage_template or declared_template(path) or DEFAULT_TEMPLATE
    key = fingerprint(student.fingerprint, *_content(params))
    return Model(student, params, key, str(path), template)


def declared_template(path: str | Path | None) -> str | None:
    """The template by which a run's workdir, or its export, joins title and text.

    None where `path` is neither, or where the run had sources that join them differently.
    """
    folder = Path(path or "").expanduser()
    if path and (folder / CHECKPOINTS_NAME).is_dir():
        data = read_json(folder / CONFIG_NAME).get("data", {})
        if not data.get("sources"):
            return data.get("passage_template")
        records = [source["records"] for source in data["sources"].values()]
        templates = {Manifest.read(folder).passage_template for folder in records}
        return templates.pop() if len(templates) == 1 else None
    if path and (folder / EXPORT_NAME).is_file():
        return read_json(folder / EXPORT_NAME).get("passage_template")
    return None


def _content(params: Params) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
