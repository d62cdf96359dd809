"""Test collections in BEIR layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, gzip or not."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.common.lines import Lines
from ldx.records.schema import passage_text

Qrels = dict[str, dict[str, int]]
"""Grades by query id and passage id; above 0 is relevant."""

CORPUS_LINE = 'one JSON object a line, {"_id": "...", "title": "...", "text": "..."}'
QUERIES_LINE = 'one JSON object a line, {"_id": "...", "text": "..."}'
QRELS_LINE = (
    "query-id, corpus-id, grade between tabs after one header line (BEIR), or "
    "query-id 0 corpus-id grade (TREC); the grade is a whole number"
)
HEADER_WORDS = {"query-id", "query_id", "queryid", "query", "qid", "topic", "topic_id"}


@dataclass(frozen=True)
class Corpus:
    """Passages in the order of their file; the row of a passage is its place."""

    doc_ids: list[str]
    titles: list[str]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.doc_ids)


class CorpusTexts:
    """The passages as they are embedded, by row: title and text joined, not cut.

    Args:
      corpus: the passages.
      template: joins title and text.
    """

    def __init__(self, corpus: Corpus, template: str):
        self._corpus, self._template = corpus, template

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, row: int) -> str:
        return passage_text(self._corpus.titles[row], self._corpus.texts[row], self._template)

    @property
    def fingerprint(self) -> str:
        """Differs where any passage does."""
        return fingerprint(corpus_fingerprint(self._corpus), self._template)


@dataclass(frozen=True)
class Dataset:
    """A corpus with the queries that one split judges.

    `qrels` may grade passages that the corpus lacks: they count in the ideal ranking, as in
    trec_eval. Every query of `queries` has qrels, and the other way round.
    """

    root: Path
    split: str
    corpus: Corpus
    queries: dict[str, str]
    qrels: Qrels


def read_corpus(path: str | Path, *, max_bad: float = 0.0) -> Corpus:
    """Read a corpus: a folder in BEIR layout, or a .jsonl or .jsonl.gz file.

    Args:
      path: where it is.
      max_bad: the share of bad lines up to which they are left out, with a warning.

    Raises:
      UserError: the bad lines: malformed JSON, missing or mistyped fields, duplicate ids, ...
    """
    lines = Lines(find_file(path, "corpus"))
    corpus = Corpus([], [], [])
    for doc_id, record in _records(lines):
        corpus.doc_ids.append(doc_id)
        corpus.titles.append(record.get("title") or "")
        corpus.texts.append(record["text"])
    lines.finish(CORPUS_LINE, max_bad=max_bad)
    if not len(corpus):
        raise UserError(f"{lines.path} is empty; wanted: {CORPUS_LINE}")
    return corpus


def read_queries(path: str | Path) -> dict[str, str]:
    """Read the texts of queries by id: a folder in BEIR layout, or a .jsonl or .jsonl.gz file.

    Raises:
      UserError: the bad lines, as for a corpus.
    """
    lines = Lines(find_file(path, "queries"))
    queries = {query_id: record["text"] for query_id, record in _records(lines)}
    lines.finish(QUERIES_LINE)
    if not queries:
        raise UserError(f"{lines.path} is empty; wanted: {QUERIES_LINE}")
    return queries


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments, in BEIR's form (3 columns) or TREC's (4 columns), gzip or not.

    Raises:
      UserError: the bad lines: wrong columns, a grade that is no whole number, two grades.
    """
    lines = Lines(path)
    qrels: Qrels = {}
    seen: dict[tuple[str, str], int] = {}
    num_columns = None
    for number, line in lines:
        fields = _fields(line)
        num_columns = num_columns or (len(fields) if len(fields) in (3, 4) else None)
        if len(fields) != (num_columns or 3):
            lines.bad(number, f"{len(fields)} column(s), wanted {num_columns or '3 or 4'}")
            continue
        if number == 1 and fields[0].lower() in HEADER_WORDS:
            continue
        query_id, doc_id = fields[0], fields[-2]
        if not (query_id and doc_id):
            lines.bad(number, "an empty id")
            continue
        try:
            grade = int(fields[-1])
        except ValueError:
            lines.bad(number, f"grade {fields[-1]!r} is not a whole number")
            continue
        first = seen.setdefault((query_id, doc_id), number)
        if qrels.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            lines.bad(
                number, f"query {query_id!r}, passage {doc_id!r}: line {first} has another grade"
            )
    lines.finish(QRELS_LINE)
    if not qrels:
        raise UserError(f"{path} has no judgments; wanted: {QRELS_LINE}")
    return qrels


def find_qrels(root: str | Path, split: str) -> Path:
    """The file of a split.

    Raises:
      UserError: there is none; names the splits there are.
    """
    folder = Path(root) / "qrels"
    for name in (f"{split}.tsv", f"{split}.tsv.gz"):
        if (folder / name).is_file():
            return folder / name
    names = sorted({p.name.removesuffix(".gz").removesuffix(".tsv") for p in folder.glob("*.tsv*")})
    raise UserError(
        f"{folder} has no split {split!r}; there are: {', '.join(names) or 'none'}"
        + ("" if names else f"; wanted: {folder}/{split}.tsv, {QRELS_LINE}")
    )


def load_dataset(root: str | Path, split: str, *, max_bad: float = 0.0) -> Dataset:
    """Read a folder in BEIR layout, with the queries and judgments of one split.

    Judgments of unknown queries are dropped, those of unknown passages kept; both are logged.
    `max_bad` is that of `read_corpus`.

    Raises:
      UserError: the bad lines of a file, an unknown split, or qrels that fit nothing.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; wanted a folder in BEIR layout")
    qrels_path = find_qrels(root, split)
    qrels = read_qrels(qrels_path)
    all_queries = read_queries(root)
    corpus = read_corpus(root, max_bad=max_bad)
    queries = {query_id: text for query_id, text in all_queries.items() if query_id in qrels}
    if not queries:
        raise UserError(
            f"{qrels_path}: none of its {len(qrels)} queries is in the queries of {root}; "
            f"the first is {next(iter(qrels))!r}, there {next(iter(all_queries))!r}"
        )
    if len(queries) < len(qrels):
        missing = [query_id for query_id in qrels if query_id not in queries]
        logging.warning(
            "%s: %d of %d queries are not in the queries file and are dropped, such as %r",
            *(qrels_path, len(missing), len(qrels), missing[0]),
        )
    qrels = {query_id: qrels[query_id] for query_id in queries}
    _check_passages(qrels, corpus, qrels_path)
    return Dataset(root, split, corpus, queries, qrels)


def _check_passages(qrels: Qrels, corpus: Corpus, path: Path) -> None:
    known = set(corpus.doc_ids)
    num_judgments = sum(len(grades) for grades in qrels.values())
    absent = [doc_id for grades in qrels.values() for doc_id in grades if doc_id not in known]
    if len(absent) == num_judgments:
        raise UserError(
            f"{path}: none of its passages is in the corpus; the first is {absent[0]!r}, there "
            f"{corpus.doc_ids[0]!r}. Are the columns query-id, corpus-id, score in this order?"
        )
    if absent:
        logging.warning(
            "%s: %d of %d judgments name passages that are not in the corpus, such as %r; they "
            "count in the ideal ranking, as in trec_eval",
            *(path, len(absent), num_judgments, absent[0]),
        )


def write_dataset(
    root: str | Path,
    corpus: Corpus,
    queries: Mapping[str, str],
    qrels_by_split: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> None:
    """Write a folder in BEIR layout: all files are complete before the first is in its place."""
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    staging = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        (staging / "qrels").mkdir(parents=True)
        passages = zip(corpus.doc_ids, corpus.titles, corpus.texts, strict=True)
        _write_json_lines(
            staging / "corpus.jsonl",
            ({"_id": doc_id, "title": title, "text": text} for doc_id, title, text in passages),
        )
        _write_json_lines(
            staging / "queries.jsonl",
            ({"_id": query_id, "text": text} for query_id, text in queries.items()),
        )
        for split, qrels in qrels_by_split.items():
            with open(staging / "qrels" / f"{split}.tsv", "w", encoding="utf-8") as file:
                file.write("query-id\tcorpus-id\tscore\n")
                for query_id, grades in qrels.items():
                    file.writelines(
                        f"{query_id}\t{doc}\t{grade}\n" for doc, grade in grades.items()
                    )
        (root / "qrels").mkdir(parents=True, exist_ok=True)
        for path in sorted(staging.rglob("*.*")):
            os.replace(path, root / path.relative_to(staging))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def corpus_fingerprint(corpus: Corpus) -> str:
    """A digest of all ids, titles and texts, in their order."""
    return fingerprint(*itertools.chain(corpus.doc_ids, corpus.titles, corpus.texts))


def _write_json_lines(path: Path, records: Iterator[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def find_file(path: str | Path, name: str) -> Path:
    """The file NAME.jsonl or NAME.jsonl.gz of a folder, or the file `path` itself."""
    path = Path(path)
    if path.is_file():
        return path
    candidates = [path / f"{name}.jsonl", path / f"{name}.jsonl.gz"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    raise UserError(f"{path} has no {name}.jsonl or {name}.jsonl.gz; is it in BEIR layout?")


def _records(lines: Lines) -> Iterator[tuple[str, dict[str, Any]]]:
    """The id and the object of every good line; the others are noted as bad."""
    first_line: dict[str, int] = {}
    for number, line in lines:
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            lines.bad(number, f"not valid JSON ({error})")
            continue
        problem = field_problem(record, line)
        if problem:
            lines.bad(number, problem)
            continue
        record_id = str(record["_id"])
        first = first_line.setdefault(record_id, number)
        if first != number:
            lines.bad(number, f"_id {record_id!r} is already on line {first}")
            continue
        yield record_id, record


def field_problem(record: Any, line: str) -> str | None:
    """What is wrong with a parsed line of corpus or queries."""
    if not isinstance(record, dict):
        return f"{type(record).__name__} instead of an object"
    missing = [name for name in ("_id", "text") if name not in record]
    if missing:
        return f"no {' and no '.join(missing)}; it has {', '.join(map(repr, record)) or 'nothing'}"
    record_id = record["_id"]
    if isinstance(record_id, bool) or not isinstance(record_id, str | int):
        return f"_id is {record_id!r}, wanted a string"
    for name in ("title", "text"):
        value = record.get(name)
        if not isinstance(value, str) and not (name == "title" and value is None):
            return f"{name} is {type(value).__name__}, wanted a string"
    if record_id == "" or any(c in str(record_id) for c in "\t\n\r"):
        return f"_id {record_id!r} is empty or has a tab or a line break in it"
    if ("\\ud" in line or "\\uD" in line) and not _is_text(
        "".join([str(record_id), record.get("title") or "", record["text"]])
    ):
        return "a \\u escape that is no character (half of a surrogate pair)"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _fields(line: str) -> list[str]:
    """The columns of a qrels line: between tabs, or between spaces where it has no tab."""
    if "\t" in line:
        return [field.strip() for field in line.rstrip("\r\n").split("\t")]
    return line.split()
