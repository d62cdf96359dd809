"""Passages of a corpus of any kind, one after the other: BEIR, JSONL, Parquet, or the hub.

The corpus is never in memory as a whole: memory grows by 16 bytes a passage, by which repeated ids
are recognised.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ldx.common.errors import UserError, listing
from ldx.common.files import fingerprint
from ldx.eval.rows import (
    EXCERPT_CHARS,
    PASSAGE_FIELDS,
    BadRow,
    Flaw,
    Reject,
    Row,
    find_json_lines,
    hub_rows,
    json_rows,
    parquet_rows,
    table_rows,
    well_formed,
)
from ldx.eval.seen_ids import SeenIds
from ldx.records.schema import Passage, passage_text


def _names(field: str) -> str:
    *names, last = PASSAGE_FIELDS[field]
    return f"{', '.join(names)} or {last}"


WANTED = (
    "a JSON object a line, or a row of Parquet, TSV or CSV, with an id "
    f"({_names('_id')}), a text ({_names('text')}), and a title if there is one"
)
"""A phrase for messages: what a good row of a corpus has, which is `PASSAGE_FIELDS` in words."""

PASSAGES_AT_ONCE = 8192  # passages whose ids are looked up together
CHARS_AT_ONCE = 16_000_000  # at most, of those passages
NUM_SHOWN = 10  # bad rows in a message

_HUB = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_TABLES = (".tsv", ".tsv.gz", ".csv", ".csv.gz")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", *_TABLES)

CORPUS_FORMS = (
    "a folder (BEIR, .parquet files, or corpus.tsv or .csv), a file "
    f"({', '.join(_SUFFIXES)}), or org/name@REVISION on the Hugging Face hub"
)
"""A phrase for messages: the forms that `read_passages` takes."""


class PlacedPassage(NamedTuple):
    """A passage and where it stands: the file and the line or row."""

    where: str
    passage: Passage


class HubName(NamedTuple):
    """A dataset on the Hugging Face hub."""

    name: str
    revision: str


def read_passages(
    location: str | Path, *, reject: Reject, template: str | None = None
) -> Iterator[PlacedPassage]:
    """The passages of a corpus in their order, each with its file and line or row.

    Of rows with the same id the first good one counts (`SeenIds`).

    Args:
      location: a folder with corpus.jsonl (BEIR), corpus.tsv or corpus.csv; a .jsonl, .tsv, .csv or
        .parquet file; all of these but .parquet may also end in .gz; a folder of .parquet files,
        read in the order of their names; or a dataset on the Hugging Face hub, "org/name" or
        "org/name@REVISION". `PASSAGE_FIELDS` has the names of fields and columns.
      reject: called for every bad row: malformed JSON, a field that is missing or of a wrong type,
        half of a surrogate pair, an id that is empty, repeated, has a blank at an end or has a
        tab, a line break or a NUL in it, and the row where a file breaks off.
      template: the template that joins title and text; passages of which it leaves nothing are
        rejected too. None rejects none of them, because an evaluated corpus may have them.

    Raises:
      UserError: there is no such corpus, it lacks a column, or it has no good passage.
    """
    hub = hub_name(location)
    files = [] if hub else corpus_files(location)  # now, not at the first passage

    def rows(reject: Reject) -> Iterator[Row]:
        if hub:
            yield from hub_rows(*hub)
        for path in files:
            yield from _reader_of(path)(path, reject)

    return _good_passages(location, rows, reject, template)


def _reader_of(path: Path) -> Callable[[Path, Reject], Iterator[Row]]:
    if path.suffix == ".parquet":
        return parquet_rows
    return table_rows if path.name.endswith(_TABLES) else json_rows


def location_fingerprint(location: str | Path) -> str:
    """A fingerprint of what `read_passages` reads: file contents, or name and revision on the hub.

    A hub name without a revision stands for `main`, whose content may change unnoticed.

    Raises:
      UserError: there is no such corpus.
    """
    hub = hub_name(location)
    return fingerprint("hub", *hub) if hub else fingerprint(*corpus_files(location))


def hub_name(location: str | Path) -> HubName | None:
    """The name and revision of a dataset on the hub; None where the corpus is local."""
    if Path(location).expanduser().exists():
        return None
    match = _HUB.fullmatch(str(location))
    if match is None or str(location).endswith(_SUFFIXES):
        return None
    return HubName(match["name"], match["revision"] or "main")


def corpus_files(location: str | Path) -> list[Path]:
    """The files of a corpus on this machine, in the order in which they are read.

    Raises:
      UserError: there is no corpus.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        if json_lines := find_json_lines(path, "corpus"):
            return [json_lines]
        tables = [path / f"corpus{end}" for end in _TABLES]
        if table := next((each for each in tables if each.is_file()), None):
            return [table]
        files = [p for p in sorted(path.glob("*.parquet")) if p.name[0] not in "._"]
        if not files:
            others = ", ".join(f"corpus{end}" for end in _TABLES)
            raise UserError(
                f"{path} has no corpus.jsonl, no corpus.jsonl.gz, no {others}, and no .parquet file"
            )
        return files
    if not path.is_file():
        raise UserError(f"{location}: no such file or folder; wanted {CORPUS_FORMS}")
    if not path.name.endswith(_SUFFIXES):
        raise UserError(f"{path}: the name must end in {', '.join(_SUFFIXES)}")
    return [path]


def _good_passages(
    location: str | Path,
    rows: Callable[[Reject], Iterator[Row]],
    reject: Reject,
    template: str | None,
) -> Iterator[PlacedPassage]:
    """The good passages of some rows.

    Raises:
      UserError: there is no good passage.
    """
    num_good = num_bad = 0
    problems: list[str] = []

    def note(bad: BadRow) -> None:
        nonlocal num_bad
        num_bad += 1
        if len(problems) < NUM_SHOWN:
            problems.append(f"{bad.where}: {bad.reason}")
        reject(bad)

    passages = _with_text(_passages(rows(note), note), template, note)
    for item in _without_repeated(passages, note):
        num_good += 1
        yield item
    if not num_good:
        reasons = f"; bad row(s): {num_bad}\n{listing(problems, total=num_bad)}" if problems else ""
        raise UserError(f"{location} has no passage{reasons}\nwanted: {WANTED}")


def _passages(rows: Iterable[Row], reject: Reject) -> Iterator[PlacedPassage]:
    for where, record, _ in well_formed(rows, PASSAGE_FIELDS, reject):
        title = record.get("title") or ""
        yield PlacedPassage(where, Passage(str(record["_id"]), title, record["text"]))


def _with_text(
    passages: Iterable[PlacedPassage], template: str | None, reject: Reject
) -> Iterator[PlacedPassage]:
    for item in passages:
        where, passage = item
        if template is None or passage_text(passage.title, passage.text, template):
            yield item
        else:
            detail = f"the template {template!r} leaves nothing of {passage.doc_id!r}"
            reject(BadRow(where, Flaw.EMPTY_TEXT, detail, passage.title[:EXCERPT_CHARS]))


def _without_repeated(passages: Iterable[PlacedPassage], reject: Reject) -> Iterator[PlacedPassage]:
    ids = SeenIds()
    for batch in _batches(passages):
        are_new = ids.add([item.passage.doc_id for item in batch])
        for item, is_new in zip(batch, are_new, strict=True):
            if is_new:
                yield item
            else:
                where, passage = item
                detail = f"{passage.doc_id!r} is the id of an earlier row"
                reject(BadRow(where, Flaw.REPEATED_ID, detail, passage.text[:EXCERPT_CHARS]))


def _batches(passages: Iterable[PlacedPassage]) -> Iterator[list[PlacedPassage]]:
    batch: list[PlacedPassage] = []
    num_chars = 0
    for item in passages:
        batch.append(item)
        num_chars += len(item.passage.text)
        if len(batch) == PASSAGES_AT_ONCE or num_chars >= CHARS_AT_ONCE:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch
