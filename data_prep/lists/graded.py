"""Lists of graded labels for one query: which passages of which sources, and their labels.

`config.prep.graded` is {NAME: {"kind": …}}; a kind's settings are the fields of its class here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.lists.prepared import Entry
from data_prep.pipeline.settings import GRADED_KINDS, JUDGED, MINED, SYNTHETIC
from data_prep.pipeline.workspace import Workspace, needed
from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.common.sections import build
from ldx.records.schema import LANGUAGE_MODEL, PEOPLE, RETRIEVERS


@dataclass(frozen=True)
class Material:
    """What there is for the list of one query.

    Attributes:
      judged: grades by row; of a query made from a passage, 1 for that passage.
      written: rows of the passages that were written for it, by level.
      found: int [C], rows that retrievers found, best first; without those of other queries of the
        same words.
      ranks: int [C], their ranks, from 1.
      draw: a number in [0, 1) for a row, by which passages of equal grade take turns.
    """

    judged: Mapping[int, int] = field(default_factory=dict)
    written: Mapping[int, int] = field(default_factory=dict)
    found: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ranks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    draw: Callable[[int], float] = float


@dataclass(frozen=True)
class Judged:
    """Passages that people judged, or the one that the query was made from.

    Attributes:
      num: of each list at most: grades take turns, from the highest; None: all.
      relabel: the label of a grade, such as {"1": 3}; others stay as they are.
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
        """Entries of a list that may come from here; None: as many as there are."""
        return self.num

    def choose(self, material: Material, taken: set[int]) -> list[Entry]:
        """The entries of one list."""
        by_grade: dict[int, list[int]] = {}
        for row in sorted(set(material.judged) - taken, key=material.draw):
            by_grade.setdefault(material.judged[row], []).append(row)
        turns = [
            (turn, -grade, row) for grade, rows in by_grade.items() for turn, row in enumerate(rows)
        ]
        chosen = [row for _, _, row in sorted(turns)][: self.num]
        labels = {int(grade): label for grade, label in self.relabel.items()}
        grades = [(row, material.judged[row]) for row in chosen]
        return [(row, labels.get(grade, grade)) for row, grade in grades]


@dataclass(frozen=True)
class Synthetic:
    """Passages that a language model wrote for the query, one a level (`generate_documents`).

    Attributes:
      levels: those that are taken, as labels.
    """

    levels: Sequence[int] = (3, 2, 1, 0)

    def __post_init__(self) -> None:
        is_right = isinstance(self.levels, list | tuple) and all(map(_is_whole, self.levels))
        wanted = "levels of the prompt, each once, such as (3, 2, 1, 0)"
        is_right = is_right and len(set(self.levels)) == len(self.levels)
        _check(is_right, "levels", self.levels, wanted)

    @property
    def most(self) -> int | None:
        """Entries of a list that may come from here."""
        return len(self.levels)

    def choose(self, material: Material, taken: set[int]) -> list[Entry]:
        """The entries of one list."""
        there = [(material.written.get(level), level) for level in self.levels]
        return [(row, level) for row, level in there if row is not None and row not in taken]


@dataclass(frozen=True)
class Mined:
    """Passages that retrievers found and nobody judged: the best ones from a rank on.

    Attributes:
      label: of all of them.
      num: of each list at most.
      range_min: the first so many are left out.
      range_max: those from that rank on are left out; None: none.
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
        wanted = f"room for num={self.num} after range_min={self.range_min}, or None"
        _check(is_right, "range_max", self.range_max, wanted)

    @property
    def most(self) -> int | None:
        """Entries of a list that may come from here."""
        return self.num

    def choose(self, material: Material, taken: set[int]) -> list[Entry]:
        """The entries of one list."""
        last = np.inf if self.range_max is None else self.range_max
        inside = (material.ranks > self.range_min) & (material.ranks <= last)
        rows = (int(row) for row in material.found[inside])
        fresh = [row for row in rows if row not in taken and row not in material.judged]
        return [(row, self.label) for row in fresh[: self.num]]


Source = Judged | Synthetic | Mined
_CLASSES: dict[str, Callable[..., Source]] = {JUDGED: Judged, SYNTHETIC: Synthetic, MINED: Mined}


def graded_sources(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Source]:
    """The sources of `config.prep.graded` by name, in the order in which they choose.

    Judged passages come first, then written ones, then mined ones by their ranges: what one has
    taken no other takes, and of equal labels the first stands first.

    Raises:
      UserError: an unknown kind or setting, or a value that cannot be.
    """
    sources: dict[str, Source] = {}
    for name, section in sections.items():
        settings = {key: value for key, value in section.items() if key != "kind"}
        try:
            sources[name] = build(_CLASSES[section["kind"]], settings, f"prep.graded.{name}")
        except _Mistake as mistake:
            raise UserError(f"config.prep.graded.{name}.{mistake}") from None

    def place(name: str) -> tuple[int, int, str]:
        source = sources[name]
        first = source.range_min if isinstance(source, Mined) else 0
        return GRADED_KINDS.index(sections[name]["kind"]), first, name

    return {name: sources[name] for name in sorted(sources, key=place)}


def compose(sources: Mapping[str, Source], material: Material) -> dict[str, list[Entry]]:
    """What each source gives to the list of a query; no row twice."""
    taken: set[int] = set()
    given = {}
    for name, source in sources.items():
        given[name] = source.choose(material, taken)
        taken |= {row for row, _ in given[name]}
    return given


def ordered(given: Mapping[str, Sequence[Entry]]) -> list[Entry]:
    """The entries of a list, highest label first; equal ones in the order of their sources."""
    return sorted((e for entries in given.values() for e in entries), key=lambda entry: -entry[1])


class _Mistake(ValueError):
    """A setting that cannot be, without the name of its section."""


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _check(is_right: bool, key: str, value: Any, wanted: str) -> None:
    if not is_right:
        raise _Mistake(f"{key}={value!r}: wanted {wanted}")


RESULT_NAME = "graded.json"
LABEL = "label "  # begins the names of counts by label
_JUDGES = {JUDGED: PEOPLE, SYNTHETIC: LANGUAGE_MODEL, MINED: RETRIEVERS}


def graded_paths(workspace: Workspace) -> dict[str, Path]:
    """The lists of each query type."""
    types = read_json(needed(workspace.prep / RESULT_NAME, "grade"))["types"]
    return {name: workspace.prep / "graded" / f"{name}.npz" for name in types}


def judges_of(workspace: Workspace, query_type: str) -> list[str]:
    """Who said what is relevant to people's queries: whose entries have labels over 0."""
    result = read_json(needed(workspace.prep / RESULT_NAME, "grade"))
    given = result["facts"][query_type]["sources"]
    kinds = {
        result["sources"][name]["kind"]
        for name, counts in given.items()
        if any(key.startswith(LABEL) and key != f"{LABEL}0" for key in counts)
    }
    return [judge for kind, judge in _JUDGES.items() if kind in kinds]
