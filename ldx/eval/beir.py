"""Test collections in BEIR layout: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, gzip or not."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from ldx.common.errors import UserError, listing
from ldx.common.files import fingerprint
from ldx.common.lines import Lines
from ldx.eval.passages import WANTED, read_passages
from ldx.eval.rows import (
    QUERY_FIELDS,
    BadRow,
    Flaw,
    Reject,
    find_json_lines,
    json_rows,
    well_formed,
)
from ldx.records.schema import passage_text

Qrels = dict[str, dict[str, int]]
"""Grades by query id and passage id; a passage with a grade above 0 is relevant."""

QUERIES_LINE = 'one JSON object a line, {"_id": "...", "text": "..."}'
MAX_GRADE = 2**31 - 1
"""The highest grade: records hold grades as int32."""
QRELS_LINE = (
    "query-id, corpus-id, grade between tabs after one header line (BEIR), or "
    "query-id 0 corpus-id grade (TREC); the grade is a whole number"
)
HEADER_WORDS = {"query-id", "query_id", "queryid", "query", "qid", "topic", "topic_id"}


@dataclass(frozen=True)
class Corpus:
    """Passages in the order of their file; the row of a passage is its place in that order."""

    doc_ids: list[str]
    titles: list[str]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.doc_ids)


class CorpusTexts:
    """The texts of passages as they are embedded, by row: title and text joined, not cut.

    Args:
      corpus: the passages.
      template: the template that joins title and text.
    """

    def __init__(self, corpus: Corpus, template: str):
        self._corpus, self._template = corpus, template

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, row: int) -> str:
        return passage_text(self._corpus.titles[row], self._corpus.texts[row], self._template)

    @property
    def fingerprint(self) -> str:
        """A hash that differs where any passage differs."""
        return fingerprint(corpus_fingerprint(self._corpus), self._template)


@dataclass(frozen=True)
class Dataset:
    """A corpus with the queries that one split judges.

    `qrels` may grade passages that the corpus lacks: they count in the ideal ranking, as in
    trec_eval. `queries` and `qrels` have the same query ids.
    """

    root: Path
    split: str
    corpus: Corpus
    queries: dict[str, str]
    qrels: Qrels

    @property
    def fingerprint(self) -> str:
        """A hash that differs where a passage, a query or a judgment differs."""
        judged = json.dumps([self.queries, self.qrels], sort_keys=True)
        return fingerprint(corpus_fingerprint(self.corpus), judged)


def read_corpus(location: str | Path, *, max_bad: float = 0.0) -> Corpus:
    """Read a corpus into memory.

    Args:
      location: the corpus, in any form that `read_passages` takes.
      max_bad: the largest share of bad rows that are left out with a warning.

    Raises:
      UserError: there is no such corpus, or it has bad rows, which are named.
    """
    problems: list[str] = []
    corpus = Corpus([], [], [])
    for _, passage in read_passages(location, reject=_noting(problems)):
        corpus.doc_ids.append(passage.doc_id)
        corpus.titles.append(passage.title)
        corpus.texts.append(passage.text)
    if len(problems) > max_bad * (len(corpus) + len(problems)):
        limit = f", more than {max_bad:.3g} of all" if max_bad else ""
        raise UserError(
            f"{location} has {len(problems)} bad row(s){limit}:\n{listing(problems)}\n"
            f"wanted: {WANTED}"
        )
    if problems:
        logging.warning(
            "%s: %d bad row(s) are left out:\n%s", location, len(problems), listing(problems)
        )
    return corpus


def read_queries(path: str | Path) -> dict[str, str]:
    """Read the texts of queries by id from a folder in BEIR layout or a .jsonl or .jsonl.gz file.

    Raises:
      UserError: there is no such file, or it has bad rows, which are named.
    """
    path = find_queries(path)
    problems: list[str] = []
    reject = _noting(problems)
    queries: dict[str, str] = {}
    for row in well_formed(json_rows(path, reject), QUERY_FIELDS, reject):
        query_id = str(row.record["_id"])
        if query_id in queries:
            detail = f"{query_id!r} is the id of an earlier row"
            reject(BadRow(row.where, Flaw.REPEATED_ID, detail, row.line))
        queries[query_id] = row.record["text"]
    if problems:
        raise UserError(
            f"{path} has {len(problems)} bad row(s):\n{listing(problems)}\nwanted: {QUERIES_LINE}"
        )
    if not queries:
        raise UserError(f"{path} is empty; wanted: {QUERIES_LINE}")
    return queries


def find_queries(path: str | Path) -> Path:
    """The file queries.jsonl or queries.jsonl.gz of a folder, or the file `path` itself.

    Raises:
      UserError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    queries = find_json_lines(path, "queries")
    if queries is None:
        raise UserError(f"{path} has no queries.jsonl or queries.jsonl.gz; is it in BEIR layout?")
    return queries


def _noting(problems: list[str]) -> Reject:
    """A `Reject` that adds what is wrong with a row to a list."""
    return lambda bad: problems.append(f"{bad.where}: {bad.reason}")


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments, in BEIR's form (3 columns) or TREC's (4 columns), gzip or not.

    Raises:
      UserError: there are bad lines, which are named: wrong columns, a grade that is no whole
        number, two grades of one passage.
    """
    lines = Lines(path)
    qrels: Qrels = {}
    first_lines: dict[tuple[str, str], int] = {}
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
        if not -MAX_GRADE - 1 <= grade <= MAX_GRADE:
            lines.bad(number, f"grade {grade} is no number of 32 bits")
            continue
        first = first_lines.setdefault((query_id, doc_id), number)
        if qrels.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            lines.bad(
                number, f"query {query_id!r}, passage {doc_id!r}: line {first} has another grade"
            )
    lines.finish(QRELS_LINE)
    if not qrels:
        raise UserError(f"{path} has no judgments; wanted: {QRELS_LINE}")
    return qrels


def qrels_files(root: str | Path) -> dict[str, Path]:
    """The files of judgments of a collection by split: qrels/SPLIT.tsv, or .tsv.gz."""
    files: dict[str, Path] = {}
    for path in sorted((Path(root) / "qrels").glob("*.tsv*")):
        if path.name.endswith((".tsv", ".tsv.gz")):
            files.setdefault(path.name.removesuffix(".gz").removesuffix(".tsv"), path)
    return files


def find_qrels(root: str | Path, split: str) -> Path:
    """The file of the judgments of a split.

    Raises:
      UserError: there is none; the message names the splits that there are.
    """
    files = qrels_files(root)
    if split in files:
        return files[split]
    folder = Path(root) / "qrels"
    raise UserError(
        f"{folder} has no split {split!r}; there are: {', '.join(files) or 'none'}"
        + ("" if files else f"; wanted: {folder}/{split}.tsv, {QRELS_LINE}")
    )


def load_dataset(root: str | Path, split: str, *, max_bad: float = 0.0) -> Dataset:
    """Read a folder in BEIR layout, with the queries and judgments of one split.

    Judgments of unknown queries are dropped, those of unknown passages kept; both are logged.
    `max_bad` is that of `read_corpus`.

    Raises:
      UserError: a file has bad lines, the split is unknown, or the qrels fit no query or passage.
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
    """Write a folder in BEIR layout; all files are complete before the first takes its place."""
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


def _fields(line: str) -> list[str]:
    """The columns of a qrels line: between tabs, or between spaces where it has no tab."""
    if "\t" in line:
        return [field.strip() for field in line.rstrip("\r\n").split("\t")]
    return line.split()
