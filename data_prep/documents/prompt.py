"""The prompt that asks a language model for passages at several levels of relevance to a query.

One request asks for all levels, as SyCL does (arXiv 2503.23239): this way the model can set each
passage off from the one above it, and a query costs one request. The answer has a heading line for
each level and plain text under it. That is more robust than JSON, where a single quotation mark or
line break that is not escaped makes the whole answer unreadable.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data_prep.llm.base import Sampling
from data_prep.llm.prompt_files import (
    COMMON_KEYS,
    FULL_TEXT,
    SHIPPED,
    TABLES,
    TEXTS,
    Key,
    fill,
    frozen,
    load_prompt_files,
    right_values,
    whole,
    wrong_keys,
    wrong_placeholders,
    wrong_tables,
)
from data_prep.pipeline.draws import draw, pick
from ldx.common.files import fingerprint

FOLDER = SHIPPED / "documents"
HEADING = "### LEVEL {level}"


@dataclass(frozen=True)
class Level:
    """A level of relevance.

    Attributes:
      level: the number of the level; a higher one is more relevant.
      name: the name of the level, which the prompt tells the model.
      meaning: what a passage of this level is like, which the prompt tells the model.
    """

    level: int
    name: str
    meaning: str


@dataclass(frozen=True)
class DocumentRules:
    """The rules by which `data_prep.documents.answer.read_answer` accepts a passage.

    Attributes:
      min_words: the fewest words of a passage.
      max_words: the most words of a passage.
      refusals: how refusals begin in the language of the prompt; the English ones are built in.
      references: phrases by which a passage refers to its query or its level; the English ones are
        built in (`data_prep.documents.answer`). Phrases that an ordinary page may hold do not
        belong here.
    """

    min_words: int = 10
    max_words: int = 500
    refusals: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class DocumentExample:
    """A query and the passages that the model should have written, from the highest level down."""

    query: str
    passages: tuple[str, ...]


@dataclass(frozen=True)
class DocumentPrompt:
    """A prompt for passages at all levels of relevance.

    One length, style and difficulty is drawn for every passage, so that passages vary, and neither
    length nor style gives the level away.

    Attributes:
      version: a number that is raised with every change of the text, so that reports tell which
        text was used.
      language: a BCP 47 tag such as `en` or `pt-BR`.
      few_shot: how many of the examples stand in the message.
      template: the user message, with {query}, {levels} and, where few_shot > 0, {examples}.
      level_template: the text for one of the levels, with {level}, {name}, {meaning}, {length},
        {style} and {difficulty}.
      lengths: the instructions about length that are drawn from.
      styles: the instructions about style that are drawn from.
      difficulties: the instructions about difficulty that are drawn from.
      levels: the levels, from the highest down.
      system: the system message; "": none.
      example_template: an example inside the message, with {query} and {passages}.
      sampling: how the model draws its answer.
      answer: the rules by which an answer is accepted.
      examples: the examples that are drawn from.
    """

    version: int
    language: str
    few_shot: int
    template: str
    level_template: str
    lengths: tuple[str, ...]
    styles: tuple[str, ...]
    difficulties: tuple[str, ...]
    levels: tuple[Level, ...]
    system: str = ""
    example_template: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    answer: DocumentRules = field(default_factory=DocumentRules)
    examples: tuple[DocumentExample, ...] = ()

    def messages(self, query: str, query_id: str, seed: int, attempt: int) -> list[dict[str, str]]:
        """The chat that asks for all levels; the same for the same arguments, in any process.

        Args:
          query: the text; braces in it are kept as they are.
          query_id: the query's id; with `seed`, `attempt` and the level it decides which
            instructions and examples are drawn.
          seed: the seed of the run.
          attempt: how often the model was asked for these passages before.
        """
        names = (query_id, str(attempt))
        levels = [self._level(level, seed, *names) for level in self.levels]
        order = sorted(
            range(len(self.examples)), key=lambda i: draw(seed, "document example", *names, str(i))
        )
        examples = [self._example(self.examples[i]) for i in order[: self.few_shot]]
        text = fill(
            self.template,
            query=" ".join(query.split()),
            levels="\n\n".join(levels),
            examples="\n\n".join(examples),
        )
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": text}]

    def request_seed(self, query_id: str, seed: int, attempt: int) -> int:
        """The sampler's seed for one request, in [0, 2**31)."""
        return pick(2**31, seed, "document request", query_id, str(attempt))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of what decides the model's answers; the rules for answers are not in it."""
        fields = {k: v for k, v in asdict(self).items() if k not in ("language", "answer")}
        return fingerprint(json.dumps(fields, sort_keys=True))

    def _level(self, level: Level, seed: int, *names: str) -> str:
        def drawn(what: str, options: tuple[str, ...]) -> str:
            return options[pick(len(options), seed, what, *names, str(level.level))]

        return fill(
            self.level_template,
            level=str(level.level),
            name=level.name,
            meaning=level.meaning,
            length=drawn("length", self.lengths),
            style=drawn("style", self.styles),
            difficulty=drawn("difficulty", self.difficulties),
        )

    def _example(self, example: DocumentExample) -> str:
        passages = zip(self.levels, example.passages, strict=True)
        sections = [f"{HEADING.format(level=level.level)}\n{text}" for level, text in passages]
        return fill(self.example_template, query=example.query, passages="\n\n".join(sections))


def load_document_prompt(name: str) -> DocumentPrompt:
    """Read a prompt: a shipped one by its name, or a user's own by the path of its .toml file.

    Raises:
      UserError: the file does not exist, or it holds mistakes; all are reported.
    """
    (prompt,) = load_prompt_files([name], FOLDER, _problems, _build)
    return prompt


_NEEDED_TEXTS = Key(
    f"{TEXTS.rule}, at least one", lambda v: TEXTS.is_right(v) and bool(v), is_needed=True
)
_KEYS = COMMON_KEYS | {
    "level_template": FULL_TEXT,
    "lengths": _NEEDED_TEXTS,
    "styles": _NEEDED_TEXTS,
    "difficulties": _NEEDED_TEXTS,
    "levels": Key("tables, written [[levels]], at least two", TABLES.is_right, True),
}
_LEVEL_KEYS = {"level": whole(0, is_needed=True), "name": FULL_TEXT, "meaning": FULL_TEXT}
_TABLES = {
    "answer": {
        "min_words": whole(1),
        "max_words": whole(1),
        "refusals": TEXTS,
        "references": TEXTS,
    },
    "levels": _LEVEL_KEYS,
    "examples": {"query": FULL_TEXT, "passages": _NEEDED_TEXTS},
}
_PLACEHOLDERS = {
    "level_template": ("level", "name", "meaning", "length", "style", "difficulty"),
    "example_template": ("query", "passages"),
}


def _problems(table: Mapping[str, Any]) -> list[str]:
    """The mistakes in a prompt's file."""
    problems = wrong_keys(table, _KEYS, "")
    right = right_values(table, _KEYS)
    problems += wrong_tables(right, _TABLES)
    few_shot = right.get("few_shot", 0)
    templates: dict[str, tuple[str, ...]] = {
        "template": ("query", "levels", *(("examples",) if few_shot else ())),
        "level_template": _PLACEHOLDERS["level_template"],
    }
    if few_shot:
        templates["example_template"] = _PLACEHOLDERS["example_template"]
    for name, placeholders in templates.items():
        if name in right or name == "example_template":
            problems += wrong_placeholders(right, name, placeholders)
    if problems:
        return problems
    levels = [level["level"] for level in table["levels"]]
    if len(levels) < 2 or levels != sorted(set(levels), reverse=True):
        problems.append(f"levels are {levels}; wanted at least two, from the highest down")
    for number, example in enumerate(table.get("examples", []), 1):
        num_passages = len(example["passages"])
        if num_passages != len(levels):
            problems.append(
                f"examples[{number}] has {num_passages} passages for {len(levels)} levels"
            )
    return problems


def _build(table: Mapping[str, Any]) -> DocumentPrompt:
    """The prompt that a table without mistakes describes; white space around texts is dropped."""
    plain: dict[str, Any] = {k: table[k] for k in ("version", "language", "few_shot")}
    for name in ("system", "template", "level_template", "example_template"):
        plain[name] = table.get(name, "").strip()
    for name in ("lengths", "styles", "difficulties"):
        plain[name] = tuple(text.strip() for text in table[name])
    return DocumentPrompt(
        **plain,
        levels=tuple(
            Level(level["level"], level["name"].strip(), level["meaning"].strip())
            for level in table["levels"]
        ),
        sampling=Sampling(**frozen(table.get("sampling", {}))),
        answer=DocumentRules(**frozen(table.get("answer", {}))),
        examples=tuple(
            DocumentExample(example["query"].strip(), tuple(p.strip() for p in example["passages"]))
            for example in table.get("examples", [])
        ),
    )
