"""Rules by which the entries of a graded list are chosen, and their labels.

`config.prep.graded` is {NAME: {"kind": …}}; the other settings of a section are the fields of the
class of its kind here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_prep.lists.prepared import Entry
from data_prep.pipeline.settings import EntryKind
from ldx.common.errors import UserError
from ldx.common.sections import build


@dataclass(frozen=True)
class Material:
    """The passages from which the list of one query can be made.

    Attributes:
      judged: grades by row; if the query was made from a passage, 1 for that passage.
      written: rows of the passages that were written for the query, by level.
      mined: int [C], rows that retrievers found, best first, without passages from which other
        queries of the same words were made.
      ranks: int [C], the ranks of `mined`, from 1.
      draw: gives a number in [0, 1) for a row, by which passages of equal grade take turns.
    """

    judged: Mapping[int, int] = field(default_factory=dict)
    written: Mapping[int, int] = field(default_factory=dict)
    mined: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ranks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    draw: Callable[[int], float] = float


@dataclass(frozen=True)
class JudgedRule:
    """A rule that takes passages that people judged, or the one that the query was made from.

    Attributes:
      num: the most entries of a list; grades take turns, from the highest; None: all.
      relabel: labels by grade, such as {"1": 3}; other grades are their own labels.
    """

    num: int | None = None
    relabel: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.num is None or _is_whole(self.num), "num", self.num, "at least 0, or None")
        for grade, label in self.relabel.items():
            is_right = str(grade).isdecimal() and _is_whole(label)
            _check(is_right, "relabel", dict(self.relabel), 'labels by grade, such as {"1": 3}')

    @property
    def most(self) -> int | None:
        """The most entries that this rule gives to a list; None: as many as there are."""
        return self.num

    def choose(self, material: Material, taken: set[int]) -> list[Entry]:
        """The entries that this rule gives to one list, without rows that are `taken`."""
        by_grade: dict[int, list[int]] = {}
        for row in sorted(set(material.judged) - taken, key=material.draw):
            by_grade.setdefault(material.judged[row], []).append(row)
        turns = [
            (turn, -grade, row) for grade, rows in by_grade.items() for turn, row in enumerate(rows)
        ]
        labels = {int(grade): label for grade, label in self.relabel.items()}
        return [
            Entry(row, labels.get(-negated, -negated))
            for _, negated, row in sorted(turns)[: self.num]
        ]


@dataclass(frozen=True)
class SyntheticRule:
    """A rule that takes the passages that a language model wrote for the query, one a level.

    Attributes:
      levels: the levels to take, which become labels; the stage generate_documents writes them.
    """

    levels: Sequence[int] = (3, 2, 1, 0)

    def __post_init__(self) -> None:
        is_right = isinstance(self.levels, list | tuple) and all(map(_is_whole, self.levels))
        is_right = is_right and len(set(self.levels)) == len(self.levels)
        example = "levels of the prompt, each once, such as (3, 2, 1, 0)"
        _check(is_right, "levels", self.levels, example)

    @property
    def most(self) -> int | None:
        """The most entries that this rule gives to a list."""
        return len(self.levels)

    def choose(self, material: Material, taken: set[int]) -> list[Entry]:
        """The entries that this rule gives to one list, without rows that are `taken`."""
        rows = [material.written.get(level) for level in self.levels]
        return [
            Entry(row, level)
            for row, level in zip(rows, self.levels, strict=True)
            if row is not None and row not in taken
        ]


@dataclass(frozen=True)
class MinedRule:
    """A rule that takes passages that retrievers found and nobody judged: the best from a rank on.

    Attributes:
      label: the label of all of them.
      num: the most entries of a list.
      range_min: how many of the first ranks are left out.
      range_max: the last rank that may be taken; None: no limit.
    """

    label: int = 0
    num: int = 0
    range_min: int = 0
    range_max: int | None = None

    def __post_init__(self) -> None:
        for key in ("label", "num", "range_min"):
            _check(_is_whole(getattr(self, key)), key, getattr(self, key), "at least 0")
        is_right = self.range_max is None or (
            _is_whole(self.range_max) and self.range_max >= self.range_min + self.num
        )
        room = f"room for num={self.num} after range_min={self.range_min}, or None"
        _check(is_right, "range_max", self.range_max, room)

    @property
    def most(self) -> int | None:
        """The most entries that this rule gives to a list."""
        return self.num

    def choose(self, material: Material, taken: set[int]) -> list[Entry]:
        """The entries that this rule gives to one list, without rows that are `taken`."""
        last = np.inf if self.range_max is None else self.range_max
        inside = (material.ranks > self.range_min) & (material.ranks <= last)
        rows = (int(row) for row in material.mined[inside])
        fresh = [row for row in rows if row not in taken and row not in material.judged]
        return [Entry(row, self.label) for row in fresh[: self.num]]


EntryRule = JudgedRule | SyntheticRule | MinedRule
_RULES: dict[str, Callable[..., EntryRule]] = {
    EntryKind.JUDGED: JudgedRule,
    EntryKind.SYNTHETIC: SyntheticRule,
    EntryKind.MINED: MinedRule,
}
"""The rules by kind, in the order in which they choose."""


def entry_rules(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, EntryRule]:
    """The rules of `config.prep.graded` by name, in the order in which they choose.

    Judged passages come first, then written ones, then mined ones by their ranges. A passage that
    one rule has taken is not taken again, and entries of equal labels stand in the rules' order.

    Raises:
      UserError: an unknown kind or setting, or a value that cannot be.
    """
    rules: dict[str, EntryRule] = {}
    for name, section in sections.items():
        settings = {key: value for key, value in section.items() if key != "kind"}
        try:
            rules[name] = build(_RULES[section["kind"]], settings, f"prep.graded.{name}")
        except _BadSetting as error:
            raise UserError(f"config.prep.graded.{name}.{error}") from None
    kinds = list(_RULES)

    def place(name: str) -> tuple[int, int, str]:
        rule = rules[name]
        first = rule.range_min if isinstance(rule, MinedRule) else 0
        return kinds.index(sections[name]["kind"]), first, name

    return {name: rules[name] for name in sorted(rules, key=place)}


def choose_all(rules: Mapping[str, EntryRule], material: Material) -> dict[str, list[Entry]]:
    """The entries that each rule gives to the list of a query, no row twice, by rule."""
    taken: set[int] = set()
    by_rule = {}
    for name, rule in rules.items():
        by_rule[name] = rule.choose(material, taken)
        taken |= {entry.row for entry in by_rule[name]}
    return by_rule


def ordered(by_rule: Mapping[str, Sequence[Entry]]) -> list[Entry]:
    """The entries of a list, highest label first, equal labels in the order of their rules."""
    entries = [entry for of_rule in by_rule.values() for entry in of_rule]
    return sorted(entries, key=lambda entry: -entry.label)


class _BadSetting(ValueError):
    """A message about a setting that cannot be, without the name of its section."""


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _check(is_right: bool, key: str, value: Any, expected: str) -> None:
    if not is_right:
        raise _BadSetting(f"{key}={value!r}: wanted {expected}")
