"""Finding, reading and checking the TOML files of prompts, and filling in their placeholders.

The shipped files that ask for queries are in data_prep/prompts/, and those that ask for passages in
its folder documents/.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ldx.common.errors import UserError, listing

SHIPPED = Path(__file__).parents[1] / "prompts"

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")


def fill(template: str, **values: str) -> str:
    """Fill in a template's placeholders; text inside a value that looks like one is kept."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def find_prompt(name: str, folder: Path) -> Path:
    """The path of a prompt's file: a shipped one in `folder`, or a user's own.

    Raises:
      UserError: the file does not exist.
    """
    shipped = sorted(path.stem for path in folder.glob("*.toml"))
    if name in shipped:
        return folder / f"{name}.toml"
    path = Path(name)
    if path.suffix != ".toml":
        near = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(shipped)}."
        raise UserError(
            f"no prompt is called {name!r}; {hint} A prompt of your own is named by the path of "
            "its .toml file"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path


T = TypeVar("T")


def load_prompt_files(
    names: Sequence[str],
    folder: Path,
    problems_of: Callable[[Mapping[str, Any]], list[str]],
    build: Callable[[Mapping[str, Any]], T],
) -> list[T]:
    """Read prompts, in the order of their names.

    Args:
      names: for each prompt the name of a shipped one, or the path of a user's own .toml file.
      folder: the folder of the shipped prompts.
      problems_of: gives the mistakes in the table of a file.
      build: makes a prompt from a table without mistakes.

    Raises:
      UserError: a file does not exist, or some files hold mistakes; all are reported.
    """
    prompts, problems = [], []
    for name in names:
        path = find_prompt(name, folder)
        table = read_toml(path)
        file_problems = problems_of(table)
        problems += [f"{path}: {problem}" for problem in file_problems]
        if not file_problems:
            prompts.append(build(table))
    if problems:
        raise UserError(f"prompts that cannot be used:\n{listing(problems, limit=50)}")
    return prompts


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
      UserError: the file is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None


@dataclass(frozen=True)
class Key:
    """The rule for the values of one key in a file.

    Attributes:
      rule: the values that the key may have, in words for messages.
      is_right: tells whether a value is one of these.
      is_needed: whether the key must be there.
    """

    rule: str
    is_right: Callable[[Any], bool]
    is_needed: bool = False


def whole(least: int, is_needed: bool = False) -> Key:
    """A key for a whole number of at least `least`."""
    rule = f"a whole number of at least {least}"
    return Key(rule, lambda v: type(v) is int and v >= least, is_needed)


def number(rule: str, is_right: Callable[[float], bool]) -> Key:
    """A key for a number that fulfils a condition."""
    return Key(rule, lambda v: type(v) in (int, float) and is_right(v))


def matching(pattern: re.Pattern[str], rule: str) -> Key:
    """A key, which must be there, for a text that matches a pattern as a whole."""
    return Key(rule, lambda v: isinstance(v, str) and bool(pattern.fullmatch(v)), True)


TEXT = Key("a text", lambda v: isinstance(v, str))
FULL_TEXT = Key("a text that is not empty", lambda v: isinstance(v, str) and v.strip() != "", True)
TEXTS = Key(
    "a list of texts, none empty",
    lambda v: isinstance(v, list) and all(isinstance(x, str) and x.strip() for x in v),
)
TABLE = Key("a table", lambda v: isinstance(v, dict))
TABLES = Key(
    "tables, written [[examples]]",
    lambda v: isinstance(v, list) and all(isinstance(x, dict) for x in v),
)
LANGUAGE = matching(
    re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*"), "a language tag such as en or pt-BR"
)
SAMPLING_KEYS = {
    "temperature": number("a number of at least 0", lambda v: 0 <= v < float("inf")),
    "top_p": number("a number above 0 and at most 1", lambda v: 0 < v <= 1),
    "max_tokens": whole(1),
    "stop": Key(  # unlike other texts, a stop may be white space, such as the end of a line
        TEXTS.rule, lambda v: isinstance(v, list) and all(isinstance(x, str) and x for x in v)
    ),
}


COMMON_KEYS = {
    "version": whole(1, is_needed=True),
    "language": LANGUAGE,
    "few_shot": whole(0, is_needed=True),
    "system": TEXT,
    "template": FULL_TEXT,
    "example_template": TEXT,
    "sampling": TABLE,
    "answer": TABLE,
    "examples": TABLES,
}
"""The keys that prompts of all kinds have."""


def right_values(table: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """The part of a table in which `wrong_keys` finds no mistake."""
    return {name: v for name, v in table.items() if name in keys and keys[name].is_right(v)}


def wrong_tables(right: Mapping[str, Any], keys: Mapping[str, Mapping[str, Key]]) -> list[str]:
    """The mistakes in the tables inside a prompt, and in the number of its examples.

    Args:
      right: the values of the prompt that have the right type.
      keys: the keys of these tables, by the name of the table; those of `sampling` are built in.
    """
    problems = []
    for name, table_keys in ({"sampling": SAMPLING_KEYS} | dict(keys)).items():
        tables = right.get(name, [])
        if isinstance(tables, Mapping):
            problems += wrong_keys(tables, table_keys, f"{name}.")
            continue
        for number, table in enumerate(tables, 1):
            problems += wrong_keys(table, table_keys, f"{name}[{number}].")
    few_shot, num_examples = right.get("few_shot", 0), len(right.get("examples", []))
    if few_shot > num_examples:
        problems.append(f"few_shot = {few_shot}, but there are {num_examples} [[examples]]")
    return problems


def wrong_keys(table: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> list[str]:
    """The mistakes in a table: unknown and missing keys, and values that break the rules.

    Args:
      table: the table.
      keys: the keys that it may have.
      where: a prefix for the names of keys in messages, such as `sampling.`.
    """
    problems = []
    for name, value in table.items():
        if name not in keys:
            near = difflib.get_close_matches(name, keys, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known are {', '.join(keys)}"
            problems.append(f"{where}{name}: there is no such key; {hint}")
        elif not keys[name].is_right(value):
            problems.append(f"{where}{name} = {value!r:.60}; wanted {keys[name].rule}")
    missing = [name for name, key in keys.items() if key.is_needed and name not in table]
    return problems + [f"{where}{name} is missing; wanted {keys[name].rule}" for name in missing]


def wrong_placeholders(table: Mapping[str, Any], key: str, names: Iterable[str]) -> list[str]:
    """The mistakes in a template, which must hold placeholders of exactly these names."""
    names = set(names)
    present = set(_PLACEHOLDER.findall(table.get(key, "")))
    problems = [f"{key} has no {{{name}}}" for name in sorted(names - present)]
    for name in sorted(present - names):
        near = difflib.get_close_matches(name, names, n=1)
        known = " and ".join(f"{{{x}}}" for x in sorted(names))
        hint = f"did you mean {{{near[0]}}}?" if near else f"what is filled in here is {known}"
        problems.append(f"{key} has {{{name}}}, which nothing fills; {hint}")
    return problems


def frozen(section: Mapping[str, Any]) -> dict[str, Any]:
    """A table with its lists turned into tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
