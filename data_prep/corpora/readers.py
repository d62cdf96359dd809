"""Passages of a corpus of any kind, one after the other: BEIR, JSONL, Parquet, or the hub.

A bad row is handed to `reject` and reading goes on. The corpus is never in memory as a whole: what
grows with it are 16 bytes a passage, by which repeated ids are known.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ldx.common.errors import UserError, listing
from ldx.common.files import fingerprint
from ldx.common.lines import Lines
from ldx.eval import beir
from ldx.records.schema import Passage

Reject = Callable[[str, str, str], None]
"""Takes where a bad row is, why it is rejected (`KIND: detail`), and the row's beginning."""

UNREADABLE, NOT_JSON, BAD_FIELD = "unreadable", "not valid JSON", "bad field"
EMPTY_TEXT, REPEATED_ID = "empty text", "repeated id"
"""What a reason begins with."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "_id": ("_id", "id", "doc_id"),
    "title": ("title",),
    "text": ("text", "body", "contents"),
}
"""The names under which a field is looked for; the first that is there is taken."""

WANTED = "an id (_id, id or doc_id), a text (text, body or contents), and a title if there is one"
EXCERPT_CHARS = 200
PASSAGES_AT_ONCE = 8192  # passages whose ids are looked up together
CHARS_AT_ONCE = 16_000_000  # at most, of those passages
PARQUET_ROWS_AT_ONCE = 1024

_HUB = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

Placed = tuple[str, Passage]
"""Where a passage stands, and the passage."""
Row = tuple[str, Any, str]
"""Where it is, the object it holds, and its text as it stands there ("" where it is no text)."""


def read_passages(source: str, *, reject: Reject) -> Iterator[Placed]:
    """The passages of a corpus in their order, each with where it stands.

    Of rows with the same id the first good one counts. Ids are compared by 128-bit hashes: that two
    different ones among 10 million are taken for equal has a chance under 1e-24.

    Args:
      source: a folder with corpus.jsonl or corpus.jsonl.gz (BEIR); a .jsonl, .jsonl.gz or .parquet
        file; a folder of .parquet files, read in the order of their names; or a dataset on the
        Hugging Face hub, "org/name" or "org/name@REVISION". `FIELDS` tells the names of columns.
      reject: called for every bad row: malformed JSON, a field that is missing or of a wrong type,
        an empty text, half of a surrogate pair, an id that is empty, repeated, or has a tab or a
        line break in it, and where a file breaks off.

    Raises:
      UserError: there is no such source, it lacks a column, or it has not one good passage.
    """
    files, hub = _find(source)
    rows = _hub_rows(*hub) if hub else itertools.chain(*(_rows(path, reject) for path in files))
    return _good_passages(source, rows, reject)


def source_fingerprint(source: str) -> str:
    """Changes with what `read_passages` reads: file contents, or name and revision on the hub.

    A hub name without a revision stands for `main`, whose content may change unnoticed.

    Raises:
      UserError: there is no such source.
    """
    files, hub = _find(source)
    return fingerprint("hub", *hub) if hub else fingerprint(*files)


def hub_name(source: str) -> tuple[str, str] | None:
    """Name and revision of a dataset on the hub; None where the source is local."""
    return _find(source)[1]


def _find(source: str) -> tuple[list[Path], tuple[str, str] | None]:
    """The files of a local source, or name and revision of one on the hub."""
    path = Path(source).expanduser()
    if path.is_dir():
        if any((path / f"corpus.jsonl{end}").is_file() for end in ("", ".gz")):
            return [beir.find_file(path, "corpus")], None
        files = [p for p in sorted(path.glob("*.parquet")) if p.name[0] not in "._"]
        if not files:
            raise UserError(f"{path} has no corpus.jsonl, no corpus.jsonl.gz and no .parquet file")
        return files, None
    if path.is_file():
        if not path.name.endswith(_SUFFIXES):
            raise UserError(f"{path}: the name must end in {', '.join(_SUFFIXES)}")
        return [path], None
    match = _HUB.fullmatch(source)
    if match is None or source.endswith(_SUFFIXES):
        raise UserError(
            f"{source}: no such file or folder; wanted a folder (BEIR, or .parquet files), "
            f"a file ({', '.join(_SUFFIXES)}), or org/name@REVISION on the Hugging Face hub"
        )
    return [], (match["name"], match["revision"] or "main")


def _good_passages(source: str, rows: Iterable[Row], reject: Reject) -> Iterator[Placed]:
    """Drop what is bad; all of it being bad is an error."""
    num_good = 0
    problems: list[str] = []

    def note(where: str, reason: str, excerpt: str) -> None:
        if len(problems) < 3:
            problems.append(f"{where}: {reason}")
        reject(where, reason, excerpt)

    for where, passage in _without_repeated(_well_formed(rows, note), note):
        num_good += 1
        yield where, passage
    if not num_good:
        bad = f"; the first rows that were rejected:\n{listing(problems)}" if problems else ""
        raise UserError(f"{source} has no passage{bad}\nwanted: {WANTED}")


def _well_formed(rows: Iterable[Row], reject: Reject) -> Iterator[Placed]:
    for where, record, line in rows:
        record = _with_usual_names(record)
        # Only \u escapes, or what is not from a file, can hold half of a surrogate pair.
        if problem := beir.field_problem(record, line or "\\ud"):
            reject(where, f"{BAD_FIELD}: {problem}", _excerpt(record, line))
        elif not record["text"].strip():
            reject(where, f"{EMPTY_TEXT}: nothing but white space", _excerpt(record, line))
        else:
            title = record.get("title") or ""
            yield where, Passage(str(record["_id"]), title, record["text"])


def _with_usual_names(record: Any) -> Any:
    """The record with the names that BEIR gives its fields."""
    if not isinstance(record, dict):
        return record
    record = dict(record)
    for name, options in FIELDS.items():
        present = [option for option in options if option in record]
        if present and name not in record:
            record[name] = record.pop(present[0])
    return record


def _excerpt(record: Any, line: str) -> str:
    """The beginning of a row; whatever is in it can be written."""
    return (line.strip() or json.dumps(record, default=str))[:EXCERPT_CHARS]


def _rows(path: Path, reject: Reject) -> Iterator[Row]:
    return (_parquet_rows if path.suffix == ".parquet" else _json_rows)(path, reject)


class _RejectedLines(Lines):
    """Lines whose bad ones are rejected instead of collected."""

    def __init__(self, path: Path, reject: Reject):
        super().__init__(path)
        self._reject = reject

    def bad(self, number: int, problem: str) -> None:
        self._reject(f"{self.path}:{number}", f"{UNREADABLE}: {problem}", "")


def _json_rows(path: Path, reject: Reject) -> Iterator[Row]:
    for number, line in _RejectedLines(path, reject):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of 5000 digits
            reject(where, f"{NOT_JSON}: {error}", _excerpt(None, line))
            continue
        yield where, record, line


def _parquet_rows(path: Path, reject: Reject) -> Iterator[Row]:
    import pyarrow

    number, problem = 0, None
    try:
        for record in _parquet_records(path):
            number += 1
            yield f"{path}:row {number}", record, ""
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).partition("\n")[0]
    if problem is not None:
        reason = f"{UNREADABLE}: the file breaks off or is damaged ({problem})"
        reject(f"{path}:row {number + 1}", reason, "")


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile

    # One thread, and no reading ahead of whole row groups: memory stays small.
    with ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
        names = _column_names(file.schema_arrow.names, str(path))
        columns = list(names.values())
        batches = (  # group by group: a damaged group takes nothing with it that stands before
            file.iter_batches(PARQUET_ROWS_AT_ONCE, [group], columns, use_threads=False)
            for group in range(file.num_row_groups)
        )
        for batch in itertools.chain.from_iterable(batches):
            values = [_values(batch.column(name)) for name in columns]
            for row in zip(*values, strict=True):
                yield dict(zip(names, row, strict=True))


def _column_names(found: Sequence[str], where: str) -> dict[str, str]:
    """The column of each field; the title may be missing."""
    options = {field: [o for o in options if o in found] for field, options in FIELDS.items()}
    if missing := [field for field in ("_id", "text") if not options[field]]:
        wanted = ", and none named ".join(" or ".join(FIELDS[field]) for field in missing)
        there = ", ".join(map(str, found)) or "none"
        raise UserError(f"{where} has no column {wanted}; its columns are: {there}")
    return {field: names[0] for field, names in options.items() if names}


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(value) for value in column]


def _value(value: Any) -> Any:
    """A value of a column; bytes where it should be a text and is not UTF-8."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes()


def _hub_rows(name: str, revision: str) -> Iterator[Row]:
    """The rows of a dataset on the hub, streamed. BEIR's have them in config and split `corpus`."""
    where = f"{name}@{revision}"
    try:
        import datasets
    except ImportError:
        problem = "no such file or folder; to read it from the hub, `pip install datasets`"
        raise UserError(f"{name}: {problem}") from None
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        logging.warning("%s: a branch or tag can move; a commit hash cannot", where)
    try:
        configs = datasets.get_dataset_config_names(name, revision=revision)
        config = _corpus_or_only(configs, "config", where)
        splits = datasets.get_dataset_split_names(name, config, revision=revision)
        split = _corpus_or_only(splits, "split", f"{where}, config {config}")
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        for number, record in enumerate(rows, 1):
            if number == 1:
                _column_names(list(record), where)
            yield f"{where}:row {number}", record, ""
    except UserError:
        raise
    except Exception as error:  # which library raises what changes with the version of each
        problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(
            f"{where}: no such file or folder, and could not be read from the Hugging Face hub "
            f"({problem}).\nWithout a network, copy the corpus here and give its path"
        ) from error


def _corpus_or_only(names: Sequence[str], what: str, where: str) -> str:
    if "corpus" in names:
        return "corpus"
    if len(names) == 1:
        return names[0]
    there = ", ".join(names) or "none"
    raise UserError(f"{where} has no {what} `corpus` but {there}; give the file that you mean")


def _without_repeated(passages: Iterable[Placed], reject: Reject) -> Iterator[Placed]:
    seen = SeenIds()
    for some in _batches(passages):
        are_new = seen.add([passage.doc_id for _, passage in some])
        for (where, passage), is_new in zip(some, are_new, strict=True):
            if is_new:
                yield where, passage
            else:
                problem = f"{REPEATED_ID}: {passage.doc_id!r} is the id of an earlier row"
                reject(where, problem, passage.text[:EXCERPT_CHARS])


def _batches(passages: Iterable[Placed]) -> Iterator[list[Placed]]:
    some: list[Placed] = []
    num_chars = 0
    for item in passages:
        some.append(item)
        num_chars += len(item[1].text)
        if len(some) == PASSAGES_AT_ONCE or num_chars >= CHARS_AT_ONCE:
            yield some
            some, num_chars = [], 0
    if some:
        yield some


class SeenIds:
    """The ids that were seen, in 16 bytes each: 128-bit hashes in a few sorted arrays.

    Small arrays are merged into larger ones, up to an eighth of all, so that merging never needs
    much more memory than is in use.
    """

    LEAST_CAP = 2**20

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def add(self, ids: Sequence[str]) -> np.ndarray:
        """Which of some ids are new, bool [len(ids)]; of equal ones the first is."""
        if not ids:
            return np.zeros(0, bool)
        digests = (hashlib.blake2b(i.encode(), digest_size=16).digest() for i in ids)
        hashes, first = np.unique(np.frombuffer(b"".join(digests), "S16"), return_index=True)
        is_new = np.ones(len(hashes), bool)
        for level in self._levels:
            places = np.minimum(np.searchsorted(level, hashes), len(level) - 1)
            is_new &= level[places] != hashes
        self._push(hashes[is_new])
        result = np.zeros(len(ids), bool)
        result[first[is_new]] = True
        return result

    def _push(self, hashes: np.ndarray) -> None:
        """Add a sorted array, and merge those of about one size."""
        if len(hashes):
            self._levels.append(hashes)
        cap = max(self.LEAST_CAP, len(self) // 8)
        while len(self._levels) > 1:
            before, last = self._levels[-2:]
            if len(before) > 2 * len(last) or len(before) + len(last) > cap:
                return
            merged = np.sort(np.concatenate([before, last]), kind="stable")
            self._levels[-2:] = [merged]
