"""Checks before the first stage that load no model."""

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.corpora.collection import API_DOCS, BEIR
from data_prep.documents.prompt import load_document_prompt
from data_prep.lists.entry_rules import EntryRule, SyntheticRule, entry_rules
from data_prep.llm.vllm_engine import NEEDS_VLLM, NO_VLLM
from data_prep.pipeline.llm_settings import Backend
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.settings import (
    HYBRID,
    PrepConfig,
    QueryOrigin,
    has_documents,
    query_origins,
    types_of,
)
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.log import check_log, log_path, split_of_log
from data_prep.queries.prompt import load_prompts
from data_prep.retrieval.retrievers import RetrieverKind, workspace_retrievers
from data_prep.teachers import TEACHER_CLASSES
from data_prep.teachers.hybrid import hybrid_columns
from ldx.common.errors import UserError
from ldx.common.extras import how_to_install
from ldx.common.sections import check_keys
from ldx.eval.beir import QUERIES_LINE, find_qrels, qrels_files
from ldx.eval.passages import corpus_files, hub_name
from ldx.eval.rows import find_json_lines
from ldx.models.locate import check_model_path, is_on_hub
from ldx.models.section import text_settings

WORK_OF_STAGE = {
    "generate_queries": "answers",
    "generate_documents": "document_answers",
    "score": "scores",
}
"""The folders in WORKDIR/prep where stages that may need vLLM leave unfinished work."""


def check_config(workspace: Workspace) -> None:
    """Check the sections of a config that name retrievers, teachers, prompts and graded lists.

    Raises:
      UserError: an unknown or missing key, or a value that cannot be.
    """
    prep = workspace.settings
    workspace_retrievers(workspace)
    for name, section in prep.teachers.items():
        _check_teacher(prep, name, section)
    if QueryOrigin.LLM in query_origins(prep.queries):
        load_prompts(types_of(prep))
    if QueryOrigin.LOG in query_origins(prep.queries):
        log_path(prep.log)
    rules = entry_rules(prep.graded)
    if has_documents(prep):
        _check_levels(prep.document_prompt, rules)


def _check_levels(prompt: str, rules: Mapping[str, EntryRule]) -> None:
    prompt_levels = [level.level for level in load_document_prompt(prompt).levels]
    for name, rule in rules.items():
        if isinstance(rule, SyntheticRule) and not set(rule.levels) <= set(prompt_levels):
            raise UserError(
                f"config.prep.graded.{name}.levels={tuple(rule.levels)}: the prompt {prompt} "
                f"has passages of levels {', '.join(map(str, prompt_levels))}"
            )


def _check_teacher(prep: PrepConfig, name: str, section: Mapping[str, Any]) -> None:
    where = f"prep.teachers.{name}"
    weight = section.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise UserError(f"config.{where}.weight={weight!r}: wanted a number over 0")
    if section["kind"] == HYBRID:
        hybrid_columns(prep.retrievers, name, section)
        return
    if section["kind"] not in TEACHER_CLASSES:
        known = ", ".join((HYBRID, *TEACHER_CLASSES))
        raise UserError(f"config.{where}.kind={section['kind']!r}: known are {known}")
    module, _, class_name = TEACHER_CLASSES[section["kind"]].partition(":")
    make = getattr(importlib.import_module(module), class_name)
    check_keys(section, ["kind", "weight", *inspect.signature(make).parameters], where)


def check_collection(workspace: Workspace) -> None:
    """Check that the user's collection has the files of queries and judgments that stages read.

    Raises:
      UserError: such a file is missing.
    """
    config, prep, root = workspace.config, workspace.settings, workspace.dataset
    if prep.collection != BEIR or not root.is_dir():
        return  # the collection is made by the first stage, which also says that there is none
    splits = {"eval.split": config.eval.split, "prep.human_dev_split": prep.human_dev_split}
    advice = "; add it, or leave these judgments out"
    if QueryOrigin.HUMAN in query_origins(prep.queries):
        splits = {"prep.human_split": prep.human_split} | splits
        advice = "; add it"
        try:
            find_qrels(root, prep.human_split)
        except UserError as error:
            raise UserError(f"config.prep.queries={prep.queries!r}: {error}") from None
    if QueryOrigin.LOG in query_origins(prep.queries):
        check_log(workspace)
        if split := split_of_log(prep.log):
            splits = {"prep.log": split} | splits
            advice = "; add it"
    judged = {key: split for key, split in splits.items() if split in qrels_files(root)}
    if judged and find_json_lines(root, "queries") is None:
        keys = ", ".join(f"config.{key}={split!r}" for key, split in judged.items())
        raise UserError(
            f"{root} has judgments of {keys}, but no queries.jsonl or queries.jsonl.gz "
            f"({QUERIES_LINE}){advice}"
        )


def check_models(workspace: Workspace) -> None:
    """Check that the models of the stages are where their paths say.

    Stages that run in another environment (`prep.python`) are not checked.

    Raises:
      UserError: a model is not there, or is on the hub and has no revision; or the student, where
        it is here, cannot be trained, or not with such lengths.
    """
    config, prep = workspace.config, workspace.settings
    stages = set(stages_of(prep)) - set(prep.python)
    paths: dict[str, Any] = {}
    if "baselines" in stages:
        paths["model.path"] = config.model.path
    if "mine" in stages:
        for name, retriever in workspace_retrievers(workspace).items():
            if retriever.kind is RetrieverKind.DENSE:
                has_path = bool(prep.retrievers[name].get("path"))
                key = f"prep.retrievers.{name}.path" if has_path else "model.path"
                paths[key] = retriever.settings["path"]
    if "score" in stages:
        for name, section in prep.teachers.items():
            if "model" in section:
                paths[f"prep.teachers.{name}.model"] = section["model"]
    if prep.llm.backend == Backend.VLLM and stages & _stages_that_ask(prep):
        paths["prep.llm.model"] = prep.llm.model
    for key, path in paths.items():
        try:
            check_model_path(path)
        except UserError as error:
            raise UserError(f"config.{key}: {error}") from None
    if "model.path" in paths and not is_on_hub(config.model.path):
        from ldx.models.student import read_tokenizer  # late: JAX takes seconds to import

        read_tokenizer(config.model.path, **text_settings(config.model))


TEACHERS_IN_TORCH = ("cross_encoder", "rank_t5", "mono_t5", "yes_no", "layerwise")


def check_packages(workspace: Workspace) -> None:
    """Check that the packages of teachers, of the language model and of the corpus are installed.

    Stages that run in another environment (`prep.python`), or whose work is done, are not checked;
    vLLM has a check of its own.

    Raises:
      UserError: a package is missing; the message says how to install it.
    """
    prep, root = workspace.settings, workspace.dataset
    needed: list[tuple[str, str, str]] = []
    for name, section in prep.teachers.items():
        if section["kind"] in TEACHERS_IN_TORCH:
            where = f"config.prep.teachers.{name}.kind={section['kind']}"
            needed += [("score", package, where) for package in ("transformers", "torch")]
    if prep.llm.backend == Backend.OPENAI:
        where = "config.prep.llm.backend='openai'"
        needed += [(stage, "openai", where) for stage in _stages_that_ask(prep)]
    if hub_name(prep.collection):
        needed.append(("corpus", "datasets", f"config.prep.collection={prep.collection!r}"))
    corpus = root if prep.collection == BEIR else Path(prep.collection)
    if (
        prep.collection != API_DOCS
        and corpus.exists()
        and any(path.suffix == ".parquet" for path in corpus_files(corpus))
    ):
        needed.append(("corpus", "pyarrow", f"{corpus}: a corpus in Parquet"))
    for stage, package, why in needed:
        is_here = stage in stages_of(prep) and stage not in prep.python
        is_done = (workspace.prep / f"{stage}.json").exists()
        if is_here and not is_done and importlib.util.find_spec(package) is None:
            raise UserError(f"{why} needs the package {package}: {how_to_install(package)}")


def check_vllm(workspace: Workspace) -> None:
    """Check that vLLM is installed if a stage needs it that has done no work yet.

    Raises:
      UserError: vLLM is needed and not installed.
    """
    prep = workspace.settings
    if importlib.util.find_spec("vllm") is not None:
        return
    needed = {}
    if prep.llm.backend == Backend.VLLM:
        needed = {stage: NO_VLLM for stage in _stages_that_ask(prep)}
    for name, section in prep.teachers.items():
        if section["kind"] == "vllm" and "score" in stages_of(prep):
            needed["score"] = f"config.prep.teachers.{name}.kind='vllm' {NEEDS_VLLM}"
    for stage, message in needed.items():
        # Work that was done elsewhere is not done again.
        paths = (workspace.prep / f"{stage}.json", workspace.prep / WORK_OF_STAGE[stage])
        if stage not in prep.python and not any(path.exists() for path in paths):
            raise UserError(message)


def _stages_that_ask(prep: PrepConfig) -> set[str]:
    """The stages that ask the language model."""
    stages = {"generate_queries"} if QueryOrigin.LLM in query_origins(prep.queries) else set()
    return stages | ({"generate_documents"} if has_documents(prep) else set())
