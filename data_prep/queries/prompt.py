"""Prompts that ask a language model for queries: TOML files, checked, and filled for a passage.

A user adds a query type or a language by
writing another file like them and naming its path.
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
    """What `data_prep.queries.answer.clean` takes for a query.

    Words are counted so that languages without spaces fit: see `data_prep.llm.words.num_words`.

    Attributes:
      labels: what the model may put before its answer, such as `Question` in `Question: …`.
      max_copied_words: the longest run of words that may stand in the passage too; 0: any.
      is_list: the answer is a list: items on lines of their own become one line.
      refusals: how refusals begin in the language of the prompt; English ones are known.
      references: words by which a query speaks of its passage, such as `im obigen Text`; likewise.
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
    """A way to ask for queries of one type.

    Attributes:
      query_type: a plain name; it becomes part of file names.
      version: raised with every change of the text, so that reports tell which one was used.
      language: a BCP 47 tag such as `en` or `pt-BR`.
      few_shot: how many of the examples stand in each prompt.
      system: the system message; "": none.
      template: the user message, with {passage} and, where few_shot > 0, {examples}.
      example_template: an example inside the message, with {passage} and {query}.
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
          passage: the text; braces in it mean nothing.
          doc_id: decides, with `seed` and the query type, which examples are shown in which order.

        Returns:
          Messages with a role (`system` or `user`) and content.
        """
        shown = [
            fill(self.example_template, passage=example.passage, query=example.query)
            for example in self._drawn(doc_id, seed)
        ]
        text = fill(self.template, passage=passage.strip(), examples="\n\n".join(shown))
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": text}]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides what is asked and drawn; the answer's rules are no part."""
        fields = {k: v for k, v in asdict(self).items() if k not in ("language", "answer")}
        return fingerprint(json.dumps(fields, sort_keys=True))

    def _drawn(self, doc_id: str, seed: int) -> list[Example]:
        """`few_shot` examples without repetition."""

        def place(number: int) -> float:
            return draw(seed, "example", doc_id, self.query_type, str(number))

        numbers = sorted(range(len(self.examples)), key=place)
        return [self.examples[number] for number in numbers[: self.few_shot]]


def request_seed(seed: int, doc_id: str, query_type: str, attempt: int) -> int:
    """The sampler's seed for one request, in [0, 2**31)."""
    return pick(2**31, seed, "request", doc_id, query_type, str(attempt))


def shipped_prompts() -> list[str]:
    """The names that `load_prompts` knows."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_prompts(names: Sequence[str]) -> list[Prompt]:
    """Read prompts, in the order given.

    Args:
      names: each a name out of `shipped_prompts`, or the path of a user's own .toml file.

    Raises:
      UserError: there is no such file, files have keys that cannot be (all are told), or two
        prompts have the same query_type.
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
    """All that is wrong with a file."""
    problems = wrong_keys(table, _KEYS, "")
    right = right_values(table, _KEYS)
    problems += wrong_tables(right, {"answer": _ANSWER_KEYS, "examples": _EXAMPLE_KEYS})
    few_shot = right.get("few_shot", 0)
    if "template" in right:
        placeholders = {"passage", "examples"} if few_shot else {"passage"}
        problems += wrong_placeholders(right, "template", placeholders)
    if few_shot:
        problems += wrong_placeholders(right, "example_template", {"passage", "query"})
    if right.get("query_type") == QueryOrigin.HUMAN:
        problems.append('query_type = "human": that is the type of queries written by people')
    rules = right.get("answer", {})
    low, high = (rules.get(k, getattr(AnswerRules, k)) for k in ("min_words", "max_words"))
    if type(low) is int and type(high) is int and low > high:
        problems.append(f"answer.min_words = {low} is more than max_words = {high}")
    return problems


def _build(table: Mapping[str, Any]) -> Prompt:
    """The prompt of a table without problems; white space around texts is dropped."""
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
    """Types differ by more than case, for some file systems know no case."""
    named: dict[str, str] = {}
    for name, prompt in zip(names, prompts, strict=True):
        key = prompt.query_type.casefold()
        if key in named:
            raise UserError(
                f"{named[key]} and {name} both have query_type = {prompt.query_type!r}; types must "
                "differ (letter case does not count)"
            )
        named[key] = name
