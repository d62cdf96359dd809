"""The model to evaluate or to search with: a folder, a package, a hub name, or a run's workdir."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.data.sources import prompts_of_sources, source_configs
from ldx.models.locate import resolve_model_path
from ldx.models.st_folder import EXPORT_NAME, read_towers
from ldx.models.student import Student, load_student
from ldx.models.towers import (
    PASSAGE_MAP,
    Towers,
    load_towers,
    split_passage_map,
    with_passage_map,
)
from ldx.records.manifest import Manifest
from ldx.records.schema import check_template
from ldx.retrieval.model import Model
from ldx.retrieval.retrieve import DEFAULT_TEMPLATE
from ldx.retrieval.store import get_store
from ldx.training.checkpoint import (
    CHECKPOINTS_NAME,
    Progress,
    best_params,
    is_workdir,
    no_checkpoint,
)
from ldx.training.settings import CONFIG_NAME, TrainedTowers


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
      UserError: there is no such model, or the run has no checkpoint yet.
    """
    if passage_template:
        check_template(passage_template)
    overrides = {key: value for key, value in overrides.items() if value is not None}
    workdir = Path(path).expanduser()
    if not (workdir / CHECKPOINTS_NAME).is_dir():
        if is_workdir(workdir):
            raise no_checkpoint(workdir)
        folder = resolve_model_path(path)
        student, towers = _load_folder(folder, str(path), overrides)
        template = passage_template or declared_template(folder) or DEFAULT_TEMPLATE
        return Model(student, towers, str(path), template)
    config = read_json(workdir / CONFIG_NAME)
    if not isinstance(config, dict) or "model" not in config:
        raise UserError(f"{workdir / CONFIG_NAME} has no section model; it is no config of ldx")
    student, prompts = run_student(workdir, config, overrides)
    towers, progress = best_towers(workdir, config, student)
    logging.info("%s: the parameters of step %d, the best", workdir, progress.best_step)
    if prompts:
        logging.warning(
            "%s: its sources have different prompts, %s; here it embeds with %r and %r",
            *(workdir, prompts, student.config.query_prompt, student.config.passage_prompt),
        )
    template = passage_template or declared_template(path) or DEFAULT_TEMPLATE
    return Model(student, towers, str(path), template, get_store(workdir))


def run_student(
    workdir: Path, config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[Student, dict[str, tuple[str, str]]]:
    """The base model of a run, with the prompts that it was trained with.

    Args:
      workdir: the run's folder.
      config: the run's whole config.
      overrides: arguments of `load_student` instead of the config's.

    Returns:
      The student, and nothing; or, where the run's sources have different prompts, the student with
      the model's own, and the prompts of queries and passages by source.
    """
    student = load_student(**{**config["model"], **overrides})
    if not config.get("data", {}).get("sources"):
        return student, {}
    own = (student.config.query_prompt, student.config.passage_prompt)
    prompts = prompts_of_sources(source_configs(config["data"], workdir), *own)
    if len(set(prompts.values())) > 1:
        return student, prompts
    ((query_prompt, passage_prompt),) = set(prompts.values())
    return student.with_prompts(
        None if "query_prompt" in overrides else query_prompt,
        None if "passage_prompt" in overrides else passage_prompt,
    ), {}


def _load_folder(folder: Path, name: str, overrides: dict[str, Any]) -> tuple[Student, Towers]:
    """A model that is no run's, which `name` stands for."""
    if declared := read_towers(folder):
        return load_towers(declared, **overrides)
    student = load_student(name, **overrides)
    return student, Towers.of(student.params)


def best_towers(
    workdir: str | Path, config: Mapping[str, Any], student: Student
) -> tuple[Towers, Progress]:
    """The best parameters of a run, and the progress that names them.

    Args:
      workdir: the run's folder.
      config: the run's whole config, which says what learned.
      student: the model; its parameters are the base model's.

    Raises:
      UserError: the folder holds no run, or one of another model.
    """
    section = config.get("train", {})
    if section.get("towers", TrainedTowers.BOTH) == TrainedTowers.BOTH:
        params, progress = best_params(workdir, student.params)
        return Towers.of(params), progress
    has_map = bool(section.get(PASSAGE_MAP))
    like = with_passage_map(student.params) if has_map else student.params
    params, progress = best_params(workdir, like)
    if progress.best_step == 0:
        return Towers.of(student.params), progress
    query, passage_map = split_passage_map(params)
    return Towers(query, student.params, passage_map), progress


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
