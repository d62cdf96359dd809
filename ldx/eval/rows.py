"""Rows of JSON lines, of Parquet files and of datasets on the Hugging Face hub.

Everything that reads a collection uses this module, so that a good row is the same for preparation,
training, evaluation and search. A bad row is passed to `reject`, and reading goes on.
"""

import csv
import enum
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from absl import logging

from ldx.common.errors import UserError
from ldx.common.lines import Lines, not_utf8

Fields = Mapping[str, tuple[str, ...]]
"""The names that each field may have; the first that is present is taken."""

PASSAGE_FIELDS: Fields = {
    "_id": ("_id", "id", "doc_id", "docid", "doc-id", "docno", "pid", "passage_id", "corpus-id"),
    "title": ("title", "headline"),
    "text": ("text", "body", "contents", "content", "passage", "passage_text"),
}
QUERY_FIELDS: Fields = {
    "_id": ("_id", "id", "query_id", "qid", "query-id", "question_id"),
    "text": ("text", "query", "question", "query_text"),
}

EXCERPT_CHARS = 200
PARQUET_ROWS_AT_ONCE = 1024


class Flaw(enum.StrEnum):
    """The kinds of mistakes in rows."""

    UNREADABLE = "unreadable"
    NOT_JSON = "not valid JSON"
    BAD_FIELD = "bad field"
    EMPTY_TEXT = "empty text"
    REPEATED_ID = "repeated id"


class BadRow(NamedTuple):
    """A row that is left out.

    Attributes:
      where: the file and the line or row.
      flaw: the kind of the mistake.
      detail: what is wrong.
      excerpt: the beginning of the row.
    """

    where: str
    flaw: Flaw
    detail: str
    excerpt: str

    @property
    def reason(self) -> str:
        """What is wrong in words: the kind of the mistake, then the detail."""
        return f"{self.flaw}: {self.detail}"


Reject = Callable[[BadRow], None]


class Row(NamedTuple):
    """A row as it was read.

    Attributes:
      where: the file and the line or row.
      record: the object that the row holds.
      line: its text as it stands in the file; "" where the file is no text.
    """

    where: str
    record: Any
    line: str


def find_json_lines(folder: Path, name: str) -> Path | None:
    """The file NAME.jsonl or NAME.jsonl.gz of a folder, if there is one."""
    paths = (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz")
    return next((path for path in paths if path.is_file()), None)


class _RejectedLines(Lines):
    """The lines of a file; bad ones are rejected instead of collected."""

    def __init__(self, path: Path, reject: Reject):
        super().__init__(path)
        self._reject = reject

    def bad(self, number: int, problem: str) -> None:
        self._reject(BadRow(f"{self.path}:{number}", Flaw.UNREADABLE, problem, ""))


def json_rows(path: Path, reject: Reject) -> Iterator[Row]:
    """The rows of a file of JSON lines, gzip where its name ends in .gz."""
    for number, line in _RejectedLines(path, reject):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of 5000 digits
            reject(BadRow(where, Flaw.NOT_JSON, str(error), _excerpt(None, line)))
            continue
        yield Row(where, record, line)


def table_rows(path: Path, reject: Reject) -> Iterator[Row]:
    """The rows of a .csv or .tsv file, gzip where its name ends in .gz, of `PASSAGE_FIELDS`.

    The first line names the columns. A .tsv file of two columns may do without: these are the id
    and the text (MS MARCO's collection.tsv). In .tsv files a line is a row, and quotation marks
    stand for themselves unless they are around a whole cell.

    Raises:
      UserError: there is no column of ids or of texts, or the file is damaged.
    """
    csv.field_size_limit(2**31 - 1)
    is_tsv = ".tsv" in path.suffixes
    columns: list[str] = []
    number = 0
    try:
        # A lone carriage return is a part of a text, and csv has rules of its own.
        with _open_text(path, newline="\n" if is_tsv else "") as file:
            reader = csv.reader(file, strict=True)
            for cells in map(_tsv_cells, file) if is_tsv else reader:
                number = number + 1 if is_tsv else reader.line_num
                where = f"{path}:{number}"
                if not any(cells):
                    continue
                if not columns:
                    columns = [name.strip().casefold() for name in cells]
                    if not is_tsv or len(columns) != 2 or _is_heading(columns):
                        _column_names(columns, str(path))
                        continue
                    columns = ["_id", "text"]
                if len(cells) != len(columns):
                    detail = f"{len(cells)} column(s), wanted {len(columns)}"
                    excerpt = "\t".join(cells)[:EXCERPT_CHARS]
                    reject(BadRow(where, Flaw.UNREADABLE, detail, excerpt))
                    continue
                yield Row(where, dict(zip(columns, cells, strict=True)), "")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, after line {number}: {not_utf8(error.object, error)}") from None
    except (csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        # What comes after is lost, so this is no bad row that could be left out.
        raise UserError(f"{path}, after line {number}: {error}; mend the file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _tsv_cells(line: str) -> list[str]:
    """The cells of a line; one that is quoted as a whole is without its quotation marks."""
    cells = line.rstrip("\r\n").split("\t")
    return [
        cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
        for cell in cells
    ]


def _is_heading(columns: Sequence[str]) -> bool:
    """Whether the first line of a table names columns."""
    return any(name in columns for name in (*PASSAGE_FIELDS["_id"], *PASSAGE_FIELDS["text"]))


def _open_text(path: Path, newline: str) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return open(path, encoding="utf-8-sig", newline=newline)


def parquet_rows(path: Path, reject: Reject) -> Iterator[Row]:
    """The rows of a Parquet file, of the columns of `PASSAGE_FIELDS`.

    Raises:
      UserError: pyarrow is not installed, or the file lacks a column.
    """
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{path}: to read Parquet, `pip install pyarrow`") from None
    number, problem = 0, None
    try:
        for record in _parquet_records(path):
            number += 1
            yield Row(f"{path}:row {number}", record, "")
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).partition("\n")[0]
    if problem is not None:
        detail = f"the file breaks off or is damaged ({problem})"
        reject(BadRow(f"{path}:row {number + 1}", Flaw.UNREADABLE, detail, ""))


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


def _column_names(columns: Sequence[str], where: str) -> dict[str, str]:
    """The column of each field; the title may be missing."""
    names_by_field = {
        field: next((name for name in names if name in columns), "")
        for field, names in PASSAGE_FIELDS.items()
    }
    if missing := [field for field in ("_id", "text") if not names_by_field[field]]:
        names = ", and none named ".join(" or ".join(PASSAGE_FIELDS[field]) for field in missing)
        others = ", ".join(map(str, columns)) or "none"
        raise UserError(f"{where} has no column {names}; its columns are: {others}")
    return {field: name for field, name in names_by_field.items() if name}


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(value) for value in column]


def _value(value: Any) -> Any:
    """A value of a column; it is bytes where it should be a text but is not UTF-8."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes()


def hub_rows(name: str, revision: str) -> Iterator[Row]:
    """The rows of a corpus on the hub, streamed; those of BEIR are in config and split `corpus`.

    Raises:
      UserError: the library `datasets` is not installed, or the corpus cannot be read.
    """
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
            yield Row(f"{where}:row {number}", record, "")
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
    others = ", ".join(names) or "none"
    raise UserError(f"{where} has no {what} `corpus` but {others}; give the file that you mean")


def well_formed(rows: Iterable[Row], fields: Fields, reject: Reject) -> Iterator[Row]:
    """The rows that have an id and a text, with fields under the names that BEIR gives them."""
    for row in rows:
        record = _with_usual_names(row.record, fields)
        # Only a \u escape, or a row that is not from a text file, can hold half a surrogate pair.
        escaped = not row.line or "\\ud" in row.line or "\\uD" in row.line
        if problem := _field_problem(record, fields, may_be_no_text=escaped):
            reject(BadRow(row.where, Flaw.BAD_FIELD, problem, _excerpt(record, row.line)))
        else:
            yield Row(row.where, record, row.line)


def _with_usual_names(record: Any, fields: Fields) -> Any:
    if not isinstance(record, dict):
        return record
    for field, names in fields.items():
        other = next((name for name in names if name in record), field)
        if other != field:
            record = record | {field: record[other]}
            del record[other]
    return record


def _field_problem(record: Any, fields: Fields, *, may_be_no_text: bool) -> str | None:
    """What is wrong with the fields of a row; None if nothing is."""
    if not isinstance(record, dict):
        return f"{type(record).__name__} instead of an object"
    missing = [name for name in ("_id", "text") if name not in record]
    if missing:
        return f"no {' and no '.join(missing)}; it has {', '.join(map(repr, record)) or 'nothing'}"
    record_id = record["_id"]
    if isinstance(record_id, bool) or not isinstance(record_id, str | int):
        return f"_id is {record_id!r}, wanted a string"
    texts = [record[name] for name in ("title", "text") if name in fields and name in record]
    for name in ("title", "text"):
        value = record.get(name)
        if name in fields and not isinstance(value, str) and (name == "text" or value is not None):
            return f"{name} is {type(value).__name__}, wanted a string"
    record_id = str(record_id)
    if not record_id:
        return "_id is empty"
    if record_id != record_id.strip():
        return f"_id {record_id!r} has a blank at an end"
    if any(character in record_id for character in "\t\n\r\0"):
        return f"_id {record_id!r} has a tab, a line break or a NUL in it"
    if may_be_no_text and not _is_text("".join([record_id, *filter(None, texts)])):
        return "a \\u escape that is no character (half of a surrogate pair)"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _excerpt(record: Any, line: str) -> str:
    """The beginning of a row, as text that can be written whatever the row holds."""
    return (line.strip() or json.dumps(record, default=str))[:EXCERPT_CHARS]
