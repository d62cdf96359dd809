"""Queries of a log: what people typed, without judgments (`config.prep.log`)."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from absl import logging

from data_prep.corpora.collection import judged_queries
from data_prep.corpora.leaks import TestQueries
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query
from ldx.common.errors import UserError, listing
from ldx.common.lines import Lines
from ldx.common.progress import progress_bar
from ldx.common.texts import only_words
from ldx.eval.beir import find_qrels
from ldx.records.schema import LOG

SPLIT_PREFIX = "split:"
MIN_LETTERS = 2
MAX_CHARS = 500  # more is a pasted text
MAX_COUNT_DIGITS = 15
FORMS = {
    ".txt": "a query a line",
    ".tsv": "a query, a tab, and how often it was typed; the first line may name the columns",
    ".jsonl": '{"query": TEXT} or {"text": TEXT}, which may have "count": how often it was typed',
}
"""The form of a good line, by the suffix of the file, which may also have .gz after it."""
_LINK = re.compile(r"(\w+://|www\.)\S+", re.IGNORECASE)


@dataclass(frozen=True)
class LogEntry:
    """A query of a log.

    Attributes:
      query_id: its id in the collection; "" where the log is a file.
      text: the query as it was first typed, without needless blanks.
      count: how often it was typed, in whatever spelling.
    """

    query_id: str
    text: str
    count: int


@dataclass(frozen=True)
class CleanLog:
    """The distinct queries of a log.

    Attributes:
      entries: the queries, by their words.
      dropped: how many lines were dropped, by reason.
    """

    entries: dict[str, LogEntry]
    dropped: Counter[str]


@dataclass(frozen=True)
class LogQueries:
    """The queries of a log as training queries.

    Attributes:
      queries: the queries.
      counts: how often each was typed, by query_id.
      dropped: how many lines and queries were dropped, by reason.
    """

    queries: list[Query]
    counts: dict[str, int]
    dropped: Counter[str]


def split_of_log(log: str) -> str:
    """NAME where `config.prep.log` is split:NAME, else ""."""
    return log.removeprefix(SPLIT_PREFIX) if log.startswith(SPLIT_PREFIX) else ""


def log_path(log: str) -> Path | None:
    """The file that `config.prep.log` names; None where it is split:NAME.

    Raises:
      UserError: there is no such file, or its name does not tell its form.
    """
    if log.startswith(SPLIT_PREFIX):
        return None
    path = Path(log).expanduser()
    if not path.is_file():
        raise UserError(
            f"config.prep.log={log!r}: no such file; wanted the file of a query log, or split:NAME "
            "for the queries of the collection's qrels/NAME.tsv"
        )
    if _suffix(path) not in FORMS:
        forms = "; ".join(f"{suffix}: {form}" for suffix, form in FORMS.items())
        raise UserError(
            f"config.prep.log={log!r}: the name must end in {', '.join(FORMS)}, or in one of these "
            f"and .gz, which tells the form of a line ({forms})"
        )
    return path


def check_log(workspace: Workspace) -> None:
    """Check that there is the file or the split that `config.prep.log` names.

    Raises:
      UserError: there is none, or it is the split for evaluation.
    """
    log, config = workspace.settings.log, workspace.config
    if log_path(log) is not None:
        return
    split = split_of_log(log)
    if split == config.eval.split:
        raise UserError(
            f"config.prep.log={log!r}: config.eval.split names the same split, and no query that "
            "is evaluated may be trained on; take another split"
        )
    try:
        find_qrels(workspace.dataset, split)
    except UserError as error:
        raise UserError(f"config.prep.log={log!r}: {error}") from None


def clean_log(workspace: Workspace) -> CleanLog:
    """The distinct queries of the log, without what is no query; the counts of equal ones add up.

    Two queries are equal if they have the same words in the same order.

    Raises:
      UserError: more lines than config.prep.max_rejects allows are bad.
    """
    settings = workspace.settings
    path = log_path(settings.log)
    entries: Iterable[LogEntry]
    if path is None:
        check_log(workspace)
        texts = judged_queries(workspace.dataset, split_of_log(settings.log))
        entries = [LogEntry(query_id, text, 1) for query_id, text in texts.items()]
    else:
        entries = _read_log(path, settings.max_rejects)
    distinct: dict[str, LogEntry] = {}
    dropped: Counter[str] = Counter()
    for entry in progress_bar(entries, desc="query log", unit=" lines"):
        text = " ".join(entry.text.split())
        words = only_words(text)
        if problem := _problem(text, words):
            dropped[f"{LOG}: {problem}"] += 1
            continue
        first = distinct.get(words)
        if first is None:
            distinct[words] = replace(entry, text=text)
        else:
            dropped[f"{LOG}: equal to another of the log"] += 1
            distinct[words] = replace(first, count=first.count + entry.count)
    return CleanLog(distinct, dropped)


def log_queries(
    workspace: Workspace, test_queries: TestQueries, dev_queries: TestQueries
) -> LogQueries:
    """The queries of the log, without those that are test or dev queries or nearly so.

    A query has no passage of its own and no judgment. The set of its words decides its split, so
    that queries that differ in the order of words alone are on the same side.

    Args:
      workspace: the workspace of the run.
      test_queries: the queries of the evaluation.
      dev_queries: people's dev queries, which choose the step that is kept.
    """
    log = clean_log(workspace)
    dropped = log.dropped.copy()
    queries, counts = [], {}
    for words, entry in progress_bar(log.entries.items(), desc="leaks", unit=" queries"):
        if test_queries.leaks_into(entry.text):
            dropped[f"{LOG}: holds a test query"] += 1
        elif test_queries.is_nearly(entry.text):
            dropped[f"{LOG}: nearly a test query"] += 1
        elif dev_queries.is_nearly(entry.text):
            dropped[f"{LOG}: a dev query of the collection, or nearly one"] += 1
        else:
            name = entry.query_id or hashlib.sha256(words.encode()).hexdigest()[:16]
            query_id = f"{LOG}:{name}"
            group = f"{LOG}:{' '.join(sorted(set(words.split())))}"
            queries.append(Query(query_id, LOG, entry.text, -1, "", {}, group))
            counts[query_id] = entry.count
    reasons = (f"{reason.partition(': ')[2]} ({number})" for reason, number in dropped.items())
    logging.info("the log: %d queries; left out: %s", len(queries), ", ".join(reasons) or "none")
    return LogQueries(queries, counts, dropped)


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _problem(text: str, words: str) -> str:
    """Why a text is no query; "" where it is one."""
    if not words:
        return "empty"
    if all(_LINK.fullmatch(part) for part in text.split()):
        return "a link"
    num_letters = sum(letter.isalpha() for letter in words)
    if num_letters < MIN_LETTERS:
        return "too short"
    return "too long" if len(text) > MAX_CHARS else ""


class _BadLine(ValueError):
    """What is wrong with a line."""


def _read_log(path: Path, max_rejects: float) -> Iterator[LogEntry]:
    """The queries of a file, as they stand there; at the end bad lines are told together."""
    lines, parse = Lines(path), _PARSERS[_suffix(path)]
    num_good = 0
    for number, line in lines:
        try:
            entry = parse(number, line.rstrip("\r\n"))
        except _BadLine as problem:
            lines.bad(number, str(problem))
            continue
        if entry is not None:
            num_good += 1
            yield entry
    num_bad = len(lines.problems)
    if num_bad > max_rejects * (num_good + num_bad):
        form = FORMS[_suffix(path)]
        lines.finish(f"{form}. config.prep.max_rejects={max_rejects} is the share that may be bad")
    if num_bad:
        logging.warning("%d bad line(s) are left out:\n%s", num_bad, listing(lines.problems))
    if not num_good:
        raise UserError(f"{path}: has no queries; wanted: {FORMS[_suffix(path)]}")


def _from_text(number: int, line: str) -> LogEntry | None:
    return LogEntry("", line, 1)


def _from_tsv(number: int, line: str) -> LogEntry | None:
    fields = line.split("\t")
    if len(fields) != 2:
        raise _BadLine(f"{len(fields)} columns, not two")
    if number == 1 and fields[1].strip() and not any(map(str.isdigit, fields[1])):
        return None  # the names of the columns
    return LogEntry("", fields[0], _count(fields[1].strip()))


def _from_json(number: int, line: str) -> LogEntry | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadLine(f"not valid JSON ({error})") from None
    if not isinstance(record, dict):
        raise _BadLine(f"a {type(record).__name__} instead of an object")
    text = record.get("query", record.get("text"))
    if not isinstance(text, str):
        raise _BadLine("no text under query or text")
    return LogEntry("", text, _count(record.get("count", 1)))


def _count(value: object) -> int:
    """How often a query was typed, from a number or from digits."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= MAX_COUNT_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _BadLine(f"the count is {value!r}, no whole number over 0")
    return value


_PARSERS: dict[str, Callable[[int, str], LogEntry | None]] = {
    ".txt": _from_text,
    ".tsv": _from_tsv,
    ".jsonl": _from_json,
}
