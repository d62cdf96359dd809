"""Scores by query and passage, read from a file such as a TREC run into memory."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldx.common.errors import UserError
from ldx.common.lines import Lines


@dataclass(frozen=True)
class _Columns:
    """The number of columns of a line, and the places of those that are read."""

    number: int
    query: int
    passage: int
    score: int


COLUMNS = {
    6: _Columns(6, query=0, passage=2, score=4),  # a TREC run
    4: _Columns(4, query=0, passage=1, score=3),  # a run of MS MARCO
    3: _Columns(3, query=0, passage=1, score=2),
}
HEADINGS = {
    "query": ("query", "query_id", "qid", "topic"),
    "passage": ("passage", "passage_id", "pid", "doc", "doc_id", "docid", "docno", "corpus_id"),
    "score": ("score", "teacher_score", "logit"),
}
RUN_LINES = (
    "a TREC run line (query-id Q0 passage-id rank score tag), query-id passage-id rank score, or "
    "query-id passage-id score, between tabs or blanks; every pair once"
)
MAX_FLOAT32 = float(np.finfo(np.float32).max)


class RunTable:
    """Scores of pairs by sorted keys, each made of a query's and a passage's number."""

    def __init__(self) -> None:
        self.queries: dict[str, int] = {}
        self.passages: dict[str, int] = {}
        self._keys: np.ndarray = np.empty(0, np.int64)
        self._scores: np.ndarray = np.empty(0, np.float32)

    def key(self, query_id: str, doc_id: str) -> int:
        """The key of a pair; an id that has no number yet gets the next one."""
        query = self.queries.setdefault(query_id, len(self.queries))
        return query << 32 | self.passages.setdefault(doc_id, len(self.passages))

    def fill(self, keys: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Store the scores of keys int64 [N]; returns where a key was there before, bool [N]."""
        order = np.argsort(keys, kind="stable")
        self._keys, self._scores = keys[order], scores[order]
        repeated = np.zeros(len(keys), bool)
        repeated[order[1:]] = self._keys[1:] == self._keys[:-1]
        return repeated

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        return float(self._scores.min()), float(self._scores.max())

    def of_query(self, query_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of a query's passages, int64, and their scores, float32."""
        query = self.queries.get(query_id)
        if query is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        part = slice(*np.searchsorted(self._keys, [query << 32, (query + 1) << 32]))
        return self._keys[part] & (2**32 - 1), self._scores[part]

    def look_up(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Scores float32 [N] of pairs, NaN where there is none."""
        pairs = zip(query_ids, doc_ids, strict=True)
        numbers = ((self.queries.get(q, -1), self.passages.get(d, -1)) for q, d in pairs)
        keys = np.fromiter(
            (-1 if min(q, d) < 0 else q << 32 | d for q, d in numbers), np.int64, len(query_ids)
        )
        scores = np.full(len(keys), np.nan, np.float32)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            known = self._keys[places] == keys
            scores[known] = self._scores[places[known]]
        return scores


def read_run_table(path: Path) -> RunTable:
    """Read a file of scores.

    Raises:
      UserError: there is no such file, or it has bad lines, which are named.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of scores")
    lines, table = Lines(path), RunTable()
    keys, scores, line_numbers = array("q"), array("f"), array("q")
    columns: _Columns | None = None
    for number, line in lines:
        if columns is None:
            fields = _split(line, line.count("\t") + 1)
            columns = _columns_of_header(fields)
            if columns is not None:
                continue
            columns = COLUMNS.get(len(fields))
            if columns is None:
                lines.bad(number, f"{len(fields)} column(s), wanted 3, 4 or 6")
                break
        fields = _split(line, columns.number)
        if len(fields) != columns.number:
            lines.bad(number, f"{len(fields)} column(s), wanted {columns.number}")
            continue
        score = _number(fields[columns.score])
        if not abs(score) <= MAX_FLOAT32:
            lines.bad(number, f"score {fields[columns.score]!r} is not a finite number")
            continue
        keys.append(table.key(fields[columns.query], fields[columns.passage]))
        scores.append(score)
        line_numbers.append(number)
    repeated = table.fill(np.frombuffer(keys, np.int64), np.frombuffer(scores, np.float32))
    for i in np.flatnonzero(repeated):
        lines.bad(line_numbers[i], "a pair that an earlier line has")
    lines.finish(RUN_LINES)
    if not len(repeated):
        raise UserError(f"{path}: has no scores; wanted: {RUN_LINES}")
    return table


def _split(line: str, num_columns: int) -> list[str]:
    # An id may have a blank in it where columns are separated by tabs.
    line = line.rstrip("\r\n")
    return line.split("\t") if line.count("\t") == num_columns - 1 > 0 else line.split()


def _columns_of_header(fields: list[str]) -> _Columns | None:
    """The columns that a file's first line names; None where it names none."""
    names = [_heading(field) for field in fields]
    if any(names.count(column) != 1 for column in HEADINGS):
        return None
    return _Columns(len(fields), **{column: names.index(column) for column in HEADINGS})


def _heading(field: str) -> str:
    name = field.strip().lower().replace("-", "_")
    return next((column for column, names in HEADINGS.items() if name in names), "")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
