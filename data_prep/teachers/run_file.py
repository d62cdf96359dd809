"""Scores read from a file, the door for any teacher that ran elsewhere: a TREC run or a table."""

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.teachers.base import Pairs, Problem
from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.common.lines import Lines

VERSION = "run_file 1"
COLUMNS = {
    6: ("query", "Q0", "passage", "rank", "score", "tag"),
    4: ("query", "passage", "rank", "score"),
    3: ("query", "passage", "score"),
}
HEADINGS = {
    "query": ("query", "query_id", "qid", "topic"),
    "passage": ("passage", "passage_id", "pid", "doc", "doc_id", "docid", "docno", "corpus_id"),
    "score": ("score", "teacher_score", "logit"),
}
WANTED = (
    "a TREC run line (query-id Q0 passage-id rank score tag), query-id passage-id rank score, or "
    "query-id passage-id score, between tabs or blanks; every pair once"
)
RANGES = {
    "as_they_are": (-math.inf, math.inf),
    "probability": (0.0, 1.0),
    "log_probability": (-math.inf, 0.0),
}
MAX_LOGIT = 20.0
MAX_FLOAT32 = float(np.finfo(np.float32).max)


class RunFile:
    """Scores of a file by query id and passage id; NaN where it has no such pair.

    The first line may name its columns, which may then stand in any order. In memory a score takes
    16 bytes, and an id is kept once.

    Args:
      path: the file; gzip where its name ends in .gz.
      scores: what they are: as_they_are; probability or log_probability (natural) of relevance,
        which become logits: of probabilities near 1, the best would be nearly equal.

    Raises:
      UserError: there is no such file, it has bad lines, which are named, or its scores are not
        what `scores` says.
    """

    def __init__(self, path: str, scores: str = "as_they_are"):
        self._path = Path(path).expanduser()
        if not self._path.is_file():
            raise UserError(f"{self._path}: no such file of scores")
        if scores not in RANGES:
            raise UserError(f"scores={scores!r} of {path}: wanted {', '.join(RANGES)}")
        self.fingerprint = fingerprint(VERSION, self._path, scores)
        self.problems: list[Problem] = []
        self._table = _read(self._path)
        self._kind = scores
        least, most = self._table.range
        low, high = RANGES[scores]
        if least < low or most > high:
            raise UserError(
                f"scores={scores!r} of {path}: they lie from {least:g} to {most:g}; wanted from "
                f"{low:g} to {high:g}"
            )

    def score(self, pairs: Pairs) -> np.ndarray:
        """Scores float32 [N]; see `data_prep.teachers.base.Teacher`."""
        scores = _as_logits(self._table.look_up(pairs.query_ids, pairs.doc_ids), self._kind)
        self.problems = [
            Problem(pairs.query_ids[i], pairs.doc_ids[i], f"{self._path} has no such pair")
            for i in np.flatnonzero(np.isnan(scores)).tolist()
        ]
        return scores

    @property
    def doc_ids(self) -> list[str]:
        """All passages that it names."""
        return list(self._table.passages)

    def of_query(self, query_id: str) -> tuple[np.ndarray, np.ndarray]:
        """What it has for a query: int64 places in `doc_ids`, and their scores float32."""
        return self._table.of_query(query_id)


def _as_logits(scores: np.ndarray, kind: str) -> np.ndarray:
    """The logits of float32 [N] probabilities; those of 0 and 1 are as far as float32 tells."""
    if kind == "as_they_are":
        return scores
    values = scores.astype(np.float64)
    with np.errstate(divide="ignore"):
        log = np.log(values) if kind == "probability" else values
        log_other = np.log(-np.expm1(log))
    return np.clip(log - log_other, -MAX_LOGIT, MAX_LOGIT).astype(np.float32)


class _Table:
    """Scores by pair: sorted keys, each of a query's number and a passage's number."""

    def __init__(self) -> None:
        self.queries: dict[str, int] = {}
        self.passages: dict[str, int] = {}
        self._keys: np.ndarray = np.empty(0, np.int64)
        self._scores: np.ndarray = np.empty(0, np.float32)

    def key(self, query_id: str, doc_id: str) -> int:
        """The key of a pair, whose ids get numbers if they have none."""
        query = self.queries.setdefault(query_id, len(self.queries))
        return query << 32 | self.passages.setdefault(doc_id, len(self.passages))

    def fill(self, keys: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Take keys int64 and scores; which places hold a key that stands before, bool [N]."""
        order = np.argsort(keys, kind="stable")
        self._keys, self._scores = keys[order], scores[order]
        again = np.zeros(len(keys), bool)
        again[order[1:]] = self._keys[1:] == self._keys[:-1]
        return again

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest score."""
        return float(self._scores.min()), float(self._scores.max())

    def of_query(self, query_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of a query's passages, int64, and their scores, float32."""
        query = self.queries.get(query_id)
        if query is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        here = slice(*np.searchsorted(self._keys, [query << 32, (query + 1) << 32]))
        return self._keys[here] & (2**32 - 1), self._scores[here]

    def look_up(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> np.ndarray:
        """Scores float32 [N], NaN where there is none."""
        pairs = zip(query_ids, doc_ids, strict=True)
        numbers = ((self.queries.get(q, -1), self.passages.get(d, -1)) for q, d in pairs)
        wanted = np.fromiter(
            (-1 if min(q, d) < 0 else q << 32 | d for q, d in numbers), np.int64, len(query_ids)
        )
        scores = np.full(len(wanted), np.nan, np.float32)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            found = self._keys[places] == wanted
            scores[found] = self._scores[places[found]]
        return scores


def _read(path: Path) -> _Table:
    """The scores of a file.

    Raises:
      UserError: bad lines.
    """
    lines, table = Lines(path), _Table()
    keys, scores, line_numbers = array("q"), array("f"), array("q")
    columns: tuple[str, ...] = ()
    at: tuple[int, int, int] = (0, 0, 0)
    for number, line in lines:
        if not columns:
            fields = _split(line, line.count("\t") + 1)
            columns, is_header = _columns(fields)
            if not columns:
                lines.bad(number, f"{len(fields)} column(s), wanted 3, 4 or 6")
                break
            at = (columns.index("query"), columns.index("passage"), columns.index("score"))
            if is_header:
                continue
        fields = _split(line, len(columns))
        if len(fields) != len(columns):
            lines.bad(number, f"{len(fields)} column(s), wanted {len(columns)}")
            continue
        score = _number(fields[at[2]])
        if not abs(score) <= MAX_FLOAT32:
            lines.bad(number, f"score {fields[at[2]]!r} is not a finite number")
            continue
        keys.append(table.key(fields[at[0]], fields[at[1]]))
        scores.append(score)
        line_numbers.append(number)
    again = table.fill(np.frombuffer(keys, np.int64), np.frombuffer(scores, np.float32))
    for i in np.flatnonzero(again):
        lines.bad(line_numbers[i], "a pair that an earlier line has")
    lines.finish(WANTED)
    if not len(again):
        raise UserError(f"{path}: has no scores; wanted: {WANTED}")
    return table


def _split(line: str, num_columns: int) -> list[str]:
    # Ids with a blank in them are told apart by tabs.
    line = line.rstrip("\r\n")
    return line.split("\t") if line.count("\t") == num_columns - 1 > 0 else line.split()


def _columns(fields: list[str]) -> tuple[tuple[str, ...], bool]:
    """What the columns are by the file's first line, and whether it is one of names."""
    names = [_heading(field) for field in fields]
    if all(names.count(wanted) == 1 for wanted in HEADINGS):
        return tuple(name or field for name, field in zip(names, fields, strict=True)), True
    return COLUMNS.get(len(fields), ()), False


def _heading(field: str) -> str:
    name = field.strip().lower().replace("-", "_")
    return next((column for column, names in HEADINGS.items() if name in names), "")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
