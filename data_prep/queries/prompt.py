"""Prompts that ask a language model for queries: TOML files, checked, and filled for a passage.

A user adds a query type or a language by writing another such file and naming its path.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_prep.llm.base import Sampling
from data_prep.llm.prompt_files import (
    COMMON_KEYS,
    FULL_TEXT,
    SHIPPED,
    TEXTS,
    Key,
    fill,
    frozen,
    load_prompt_files,
    matching,
    right_values,
    whole,
    wrong_keys,
    wrong_placeholders,
    wrong_tables,
)
from data_prep.pipeline.draws import draw, pick
from data_prep.pipeline.settings import QueryOrigin
from ldx.common.errors import UserError
from ldx.common.files import fingerprint

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class AnswerRules:
    """The rules by which `data_prep.queries.answer.clean` accepts a query.

    Words are counted so that languages without spaces fit: see `data_prep.llm.words.num_words`.

    Attributes:
      labels: words that the model may put before its answer, such as `Question` in `Question: …`.
      min_words: the fewest words of a query.
      max_words: the most words of a query.
      max_chars: the most characters of a query.
      max_copied_words: the longest run of words that a query may share with its passage; 0: no
        limit.
      is_list: whether the query is a list, whose items on lines of their own become one line.
      refusals: how refusals begin in the language of the prompt; the English ones are built in.
      references: phrases by which a query refers to its passage, such as `im obigen Text`; the
        English ones are built in.
    """

    labels: tuple[str, ...] = ()
    min_words: int = 2
    max_words: int = 30
    max_chars: int = 250
    max_copied_words: int = 0
    is_list: bool = False
    refusals: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """A passage and the query that the model should have written for it."""

    passage: str
    query: str


@dataclass(frozen=True)
class Prompt:
    """A prompt for queries of one type.

    Attributes:
      query_type: the name of the type, which becomes part of file names.
      version: a number that is raised with every change of the text, so that reports tell which
        text was used.
      language: a BCP 47 tag such as `en` or `pt-BR`.
      few_shot: how many of the examples stand in the message.
      template: the user message, with {passage} and, where few_shot > 0, {examples}.
      system: the system message; "": none.
      example_template: an example inside the message, with {passage} and {query}.
      sampling: how the model draws its answer.
      answer: the rules by which an answer is accepted.
      examples: the examples that are drawn from.
    """

    query_type: str
    version: int
    language: str
    few_shot: int
    template: str
    system: str = ""
    example_template: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    answer: AnswerRules = AnswerRules()
    examples: tuple[Example, ...] = ()

    def messages(self, passage: str, doc_id: str, seed: int) -> list[dict[str, str]]:
        """The chat that asks for a query; the same for the same arguments, in any process.

        Args:
          passage: the text; braces in it are kept as they are.
          doc_id: the passage's id; with `seed` and the query type it decides which examples are
            shown, and in which order.
          seed: the seed of the run.

        Returns:
          Messages with a role (`system` or `user`) and content.
        """
        examples = [
            fill(self.example_template, passage=example.passage, query=example.query)
            for example in self._drawn(doc_id, seed)
        ]
        text = fill(self.template, passage=passage.strip(), examples="\n\n".join(examples))
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": text}]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of what decides the model's answers; the rules for answers are not in it."""
        fields = {k: v for k, v in asdict(self).items() if k not in ("language", "answer")}
        return fingerprint(json.dumps(fields, sort_keys=True))

    def _drawn(self, doc_id: str, seed: int) -> list[Example]:
        """The `few_shot` different examples that are drawn for a passage."""

        def place(number: int) -> float:
            return draw(seed, "example", doc_id, self.query_type, str(number))

        numbers = sorted(range(len(self.examples)), key=place)
        return [self.examples[number] for number in numbers[: self.few_shot]]


def request_seed(seed: int, doc_id: str, query_type: str, attempt: int) -> int:
    """The sampler's seed for one request, in [0, 2**31)."""
    return pick(2**31, seed, "request", doc_id, query_type, str(attempt))


def shipped_prompts() -> list[str]:
    """The names of the prompts that are shipped with ldx."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_prompts(names: Sequence[str]) -> list[Prompt]:
    """Read prompts, in the order of their names.

    Args:
      names: for each prompt a name out of `shipped_prompts`, or the path of a user's own .toml
        file.

    Raises:
      UserError: a file does not exist, some files hold mistakes (all are reported), or two prompts
        have the same query_type.
    """
    if not names:
        raise UserError(f"no prompt is named; shipped are {', '.join(shipped_prompts())}")
    prompts = load_prompt_files(names, SHIPPED, _problems, _build)
    _refuse_repeated_types(names, prompts)
    return prompts


_KEYS = COMMON_KEYS | {
    "query_type": matching(_PLAIN, "a name of at most 64 letters, digits, _ and -")
}
_ANSWER_KEYS = {
    "labels": TEXTS,
    "min_words": whole(1),
    "max_words": whole(1),
    "max_chars": whole(1),
    "max_copied_words": whole(0),
    "is_list": Key("true or false", lambda v: isinstance(v, bool)),
    "refusals": TEXTS,
    "references": TEXTS,
}
_EXAMPLE_KEYS = {"passage": FULL_TEXT, "query": FULL_TEXT}


def _problems(table: Mapping[str, Any]) -> list[str]:
    """The mistakes in a prompt's file."""
    problems = wrong_keys(table, _KEYS, "")
    right = right_values(table, _KEYS)
    problems += wrong_tables(right, {"answer": _ANSWER_KEYS, "examples": _EXAMPLE_KEYS})
    few_shot = right.get("few_shot", 0)
    if "template" in right:
        placeholders = {"passage", "examples"} if few_shot else {"passage"}
        problems += wrong_placeholders(right, "template", placeholders)
    if few_shot:
        problems += wrong_placeholders(right, "example_template", {"passage", "query"})
    if right.get("query_type") in (QueryOrigin.HUMAN, QueryOrigin.LOG):
        name = right["query_type"]
        problems.append(f'query_type = "{name}": that is the type of queries written by people')
    rules = right.get("answer", {})
    low, high = (rules.get(k, getattr(AnswerRules, k)) for k in ("min_words", "max_words"))
    if type(low) is int and type(high) is int and low > high:
        problems.append(f"answer.min_words = {low} is more than max_words = {high}")
    return problems


def _build(table: Mapping[str, Any]) -> Prompt:
    """The prompt that a table without mistakes describes; white space around texts is dropped."""
    plain = {k: table[k] for k in ("query_type", "version", "language", "few_shot")}
    texts = ("system", "template", "example_template")
    return Prompt(
        **plain,
        **{name: table.get(name, "").strip() for name in texts},
        sampling=Sampling(**frozen(table.get("sampling", {}))),
        answer=AnswerRules(**frozen(table.get("answer", {}))),
        examples=tuple(
            Example(example["passage"].strip(), example["query"].strip())
            for example in table.get("examples", [])
        ),
    )


def _refuse_repeated_types(names: Sequence[str], prompts: Sequence[Prompt]) -> None:
    """Refuse query types that differ only in letter case, which some file systems ignore."""
    name_of: dict[str, str] = {}
    for name, prompt in zip(names, prompts, strict=True):
        key = prompt.query_type.casefold()
        if key in name_of:
            raise UserError(
                f"{name_of[key]} and {name} both have query_type = {prompt.query_type!r}; types "
                "must differ (letter case does not count)"
            )
        name_of[key] = name
