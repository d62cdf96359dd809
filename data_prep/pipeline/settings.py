"""The section `config.prep` of a config as checked, typed values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from data_prep.pipeline.llm_settings import LlmConfig
from ldx.common.errors import UserError
from ldx.common.rules import check_values
from ldx.common.sections import build

AUTO = "auto"
LEAST_DEPTH = 100  # of candidates, where the config leaves the depth open
HYBRID = "hybrid"  # the only kind of teacher that is not a class of data_prep.teachers
_NAME = re.compile(r"[\w-]+")


class QueryOrigin(StrEnum):
    """The origin of training queries.

    They are cut out of passages, written by a language model, written and judged by people, or
    typed by people, whose log has no judgments.
    """

    EXTRACTIVE = "extractive"
    LLM = "llm"
    HUMAN = "human"
    LOG = "log"


class LabelOrigin(StrEnum):
    """The origin of the labels of lists: a teacher's scores, or the sources in `prep.graded`."""

    TEACHER = "teacher"
    GRADED = "graded"


class EntryKind(StrEnum):
    """The kind of an entry of a graded list: judged by people, written by a model, or mined."""

    JUDGED = "judged"
    SYNTHETIC = "synthetic"
    MINED = "mined"


class CalibrationMethod(StrEnum):
    """The method that brings scores to [0, 1], or NONE, which leaves them as they are."""

    PERCENTILE = "percentile"
    Z_SCORE = "z_score"
    RANK = "rank"
    NONE = "none"


class CandidateChoice(StrEnum):
    """The fused candidates that are scored: the first ones, or ones at equal steps of score."""

    TOP = "top"
    SPREAD = "spread"


class ListSampling(StrEnum):
    """The scored candidates that become a list: the teacher's best, or ones over all its scores."""

    TOP = "top"
    STRATIFIED = "stratified"


@dataclass(frozen=True)
class PrepConfig:
    """The section `config.prep`; configs/base.py explains its keys.

    Raises:
      UserError: a value is not allowed.
    """

    collection: str
    packages: tuple[str, ...]
    language: str
    max_passages: int | None
    max_rejects: float
    drop_near_duplicates: bool
    keep_digits: bool
    num_held_out: int
    max_source_passages: int | None
    queries: str
    log: str
    human_split: str
    human_dev_split: str
    query_types: tuple[str, ...] | None
    max_queries: int | None
    max_attempts: int
    document_prompt: str
    llm: LlmConfig
    retrievers: Mapping[str, Mapping[str, Any]]
    index: str
    candidate_depth: int | str
    range_min: int
    range_max: int | None
    sampling_strategy: CandidateChoice
    num_candidates: int | None
    rank_limit: int | None
    teachers: Mapping[str, Mapping[str, Any]]
    calibration: CalibrationMethod
    require_own_first: bool
    min_top_score_percentile: float | None
    list_size: int | None
    list_sampling: ListSampling
    absolute_margin: float | None
    relative_margin: float | None
    max_score: float | None
    list_source: LabelOrigin
    graded: Mapping[str, Mapping[str, Any]]
    dev_fraction: float
    shard_size: int
    python: Mapping[str, str]

    def __post_init__(self) -> None:
        self._check_language()
        self._check_sizes()
        self._choose("sampling_strategy", CandidateChoice)
        self._choose("calibration", CalibrationMethod)
        self._choose("list_sampling", ListSampling)
        self._choose("list_source", LabelOrigin)
        if self.calibration == CalibrationMethod.NONE and len(self.teachers) > 1:
            raise UserError(
                f"config.prep.calibration=none with the teachers {', '.join(self.teachers)}: of "
                "scores on different scales the widest would decide; take one teacher, or "
                f"{', '.join(m for m in CalibrationMethod if m != CalibrationMethod.NONE)}"
            )
        for key in ("retrievers", "teachers"):
            self._check_named(key)
        if self.graded or self.list_source == LabelOrigin.GRADED:
            self._check_named("graded")
            for name, section in self.graded.items():
                if section["kind"] not in list(EntryKind):
                    raise UserError(
                        f"config.prep.graded.{name}.kind={section['kind']!r}: wanted "
                        f"{' or '.join(EntryKind)}"
                    )
        if QueryOrigin.LOG in query_origins(self.queries) and not self.log:
            raise UserError(
                f"config.prep.queries={self.queries!r}, but config.prep.log is empty; set it to "
                "the file of a query log, or to split:NAME for the queries of the collection's "
                "qrels/NAME.tsv"
            )

    @property
    def depth(self) -> int | None:
        """How many candidates of a retriever are fused, and stay; None: every passage.

        The value of `candidate_depth`, with "auto" replaced.
        """
        if self.candidate_depth != AUTO:
            return int(self.candidate_depth)
        return None if self.list_size is None else max(LEAST_DEPTH, 2 * self.list_size)

    def _check_language(self) -> None:
        import Stemmer

        algorithms = {"porter", "dutch_porter"}  # other ways to stem English and Dutch
        languages = sorted(set(Stemmer.algorithms()) - algorithms)
        if self.language not in ("", *languages):
            raise UserError(
                f"config.prep.language={self.language!r}: Snowball has stemmers of "
                f'{", ".join(languages)}; "" leaves words as they are'
            )

    def _check_sizes(self) -> None:
        """Check the numbers of candidates and of entries of a list, which depend on each other."""
        size = self.list_size
        num_candidates = [n for n in (self.depth, self.num_candidates) if n is not None]
        least = 2 if size is None else size
        if num_candidates and min(num_candidates) < least:
            raise UserError(
                f"config.prep.list_size={size}: with candidate_depth and num_candidates, "
                f"a query has only {min(num_candidates)} candidates"
            )
        if self.range_max is not None and self.range_max < self.range_min + least:
            raise UserError(
                f"config.prep.range_max={self.range_max}: between it and range_min="
                f"{self.range_min} there is no room for list_size={size}"
            )

    def _choose(self, key: str, choices: type[StrEnum]) -> None:
        """Turn the value of a key, which is a word in a config, into one of its choices."""
        object.__setattr__(self, key, choices(getattr(self, key)))

    def _check_named(self, key: str) -> None:
        sections = getattr(self, key)
        if not sections:
            raise UserError(f"config.prep.{key} is empty; configs/base.py explains it")
        for name, section in sections.items():
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"config.prep.{key}: the name {name!r} would be the name of a folder; wanted "
                    "letters, digits, _ and -"
                )
            if not isinstance(section, Mapping) or "kind" not in section:
                raise UserError(
                    f"config.prep.{key}.{name}={section!r}: wanted settings with a kind, such as "
                    '{"kind": "bm25"}'
                )


def check_prep(section: Mapping[str, Any]) -> PrepConfig:
    """Check the section `config.prep`.

    Raises:
      UserError: a key is unknown or missing, or a value is not allowed.
    """
    check_values({"prep": section})
    llm = build(LlmConfig, section["llm"], "prep.llm") if "llm" in section else None
    return build(PrepConfig, {**section, **({"llm": llm} if llm else {})}, "prep")


EXTRACTIVE_TYPES = ("sentence", "keywords", "title")
EXTRACTIVE_CHOICES = (*EXTRACTIVE_TYPES, "conclusion")
"""What can be cut out of passages; not every corpus has conclusions."""
LLM_TYPES = (
    "question",
    "claim",
    "title",
    "keywords",
    "web_search_zero_shot",
    "web_search_few_shot",
)


def graded_kinds(prep: PrepConfig) -> set[EntryKind]:
    """The kinds of entries that graded lists have; none where a teacher scores the lists."""
    if prep.list_source != LabelOrigin.GRADED:
        return set()
    return {
        EntryKind(section["kind"])
        for section in prep.graded.values()
        if section.get("num") != 0 and section.get("levels") not in ((), [])
    }


def has_documents(prep: PrepConfig) -> bool:
    """Whether a language model writes passages that are added to those of the corpus."""
    return EntryKind.SYNTHETIC in graded_kinds(prep)


def types_of(prep: PrepConfig) -> tuple[str, ...]:
    """The query types that `config.prep` names, or all shipped ones where it names none."""
    if prep.query_types is not None:
        return tuple(prep.query_types)
    from_llm = QueryOrigin.LLM in query_origins(prep.queries)
    return LLM_TYPES if from_llm else EXTRACTIVE_TYPES


def query_origins(queries: str) -> tuple[QueryOrigin, ...]:
    """The origins of queries that `config.prep.queries` names.

    Raises:
      UserError: an origin is unknown, there is none, or two of them exclude each other.
    """
    parts = tuple(queries.split("+"))
    if not set(parts) <= set(QueryOrigin):
        raise UserError(
            f"config.prep.queries={queries!r}: wanted {', '.join(QueryOrigin)}, or several of "
            "them joined by +"
        )
    if {QueryOrigin.EXTRACTIVE, QueryOrigin.LLM} <= set(parts):
        raise UserError(
            f"config.prep.queries={queries!r}: extractive and llm have query types of the same "
            "names; take one of them"
        )
    return tuple(QueryOrigin(part) for part in parts)
