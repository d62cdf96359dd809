"""What of a config can be checked before the first stage, without loading a model."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from data_prep.document_prompts import load_document_prompt
from data_prep.graded_sources import Source, Synthetic, graded_sources
from data_prep.hybrid_teacher import hybrid_columns
from data_prep.llm import LlmConfig
from data_prep.prompts import load_prompts
from data_prep.retrievers import retriever_sections
from data_prep.settings import HYBRID, LLM, PrepConfig, has_documents, query_sources, types_of
from data_prep.teachers import KINDS
from ldx.data.schema import check_template
from ldx.errors import UserError
from ldx.settings import build, check_keys, check_model_section, check_seed


def check_config(config: ConfigDict) -> None:
    """Check all sections that stages read.

    Raises:
      UserError: an unknown or missing key, or a value that cannot be.
    """
    prep = config.prep.to_dict()
    build(PrepConfig, prep, "prep")
    check_model_section(config.model)
    check_template(config.data.passage_template)
    check_seed(config.seed)
    retriever_sections(prep["retrievers"], config.model.to_dict())
    for name, section in prep["teachers"].items():
        _check_teacher(config, name, section)
    if LLM in query_sources(config.prep.queries):
        build(LlmConfig, prep["llm"], "prep.llm")
        load_prompts(types_of(config.prep))
    sources = graded_sources(prep["graded"])
    if has_documents(config.prep):
        build(LlmConfig, prep["llm"], "prep.llm")
        _check_levels(config.prep.document_prompt, sources)


def _check_levels(name: str, sources: Mapping[str, Source]) -> None:
    known = [level.level for level in load_document_prompt(name).levels]
    for source, settings in sources.items():
        if isinstance(settings, Synthetic) and not set(settings.levels) <= set(known):
            raise UserError(
                f"config.prep.graded.{source}.levels={tuple(settings.levels)}: the prompt {name} "
                f"has passages of levels {', '.join(map(str, known))}"
            )


def _check_teacher(config: ConfigDict, name: str, section: Mapping[str, Any]) -> None:
    where = f"prep.teachers.{name}"
    weight = section.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise UserError(f"config.{where}.weight={weight!r}: wanted a number over 0")
    if section["kind"] == HYBRID:
        hybrid_columns(config, name, section)
        return
    if section["kind"] not in KINDS:
        known = ", ".join((HYBRID, *KINDS))
        raise UserError(f"config.{where}.kind={section['kind']!r}: known are {known}")
    module, _, class_name = KINDS[section["kind"]].partition(":")
    make = getattr(importlib.import_module(module), class_name)
    check_keys(section, ["kind", "weight", *inspect.signature(make).parameters], where)
