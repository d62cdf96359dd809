"""Collections are read as they are, and every broken line is named."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from absl import logging as absl_logging

from ldx.common.errors import UserError
from ldx.eval import beir

CORPUS = [
    {"_id": "d1", "title": "Lift", "text": "The wing has lift.", "metadata": {}},
    {"_id": "d2", "text": "Drag – of a wing."},
    {"_id": 3, "title": None, "text": ""},
]
QUERIES = [{"_id": "q1", "text": "lift"}, {"_id": "q2", "text": "drag"}]
HEADER = "query-id\tcorpus-id\tscore\n"


def json_lines(records: list) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(json_lines(CORPUS))
    (tmp_path / "queries.jsonl").write_text(json_lines(QUERIES))
    (tmp_path / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t2\nq2\td2\t1\nq2\td1\t0\n")
    return tmp_path


def message(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    return str(caught.value)


def test_reads_a_collection(root: Path) -> None:
    dataset = beir.load_dataset(root, "test")
    assert dataset.corpus.doc_ids == ["d1", "d2", "3"]
    assert dataset.corpus.titles == ["Lift", "", ""]
    assert dataset.corpus.texts[1] == "Drag – of a wing."
    assert dataset.queries == {"q1": "lift", "q2": "drag"}
    assert dataset.qrels == {"q1": {"d1": 2}, "q2": {"d2": 1, "d1": 0}}


def test_gzip_gives_the_same(root: Path) -> None:
    plain = beir.load_dataset(root, "test")
    for path in (root / "corpus.jsonl", root / "queries.jsonl", root / "qrels" / "test.tsv"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert beir.load_dataset(root, "test") == plain
    assert beir.read_corpus(root / "corpus.jsonl.gz") == plain.corpus


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"_id": "x", "text": ', "not valid JSON"),
        ("[1, 2]", "list instead of an object"),
        ('{"text": "a"}', "no _id; it has 'text'"),
        ('{"_id": "x", "title": "a"}', "no text"),
        ('{"_id": "x", "text": 3}', "text is int"),
        ('{"_id": "x", "text": null}', "text is NoneType"),
        ('{"_id": "x", "title": [], "text": ""}', "title is list"),
        ('{"_id": 1.5, "text": ""}', "_id is 1.5"),
        ('{"_id": true, "text": ""}', "_id is True"),
        ('{"_id": "", "text": ""}', "empty"),
        ('{"_id": "a\\tb", "text": ""}', "tab"),
        ('{"_id": "x", "text": "\\ud800"}', "surrogate"),
        ('{"_id": "d1", "text": "again"}', "'d1' is the id of an earlier row"),
        ('{"_id": "3", "text": "again"}', "'3' is the id of an earlier row"),
    ],
)
def test_a_bad_corpus_line_is_named(root: Path, line: str, problem: str) -> None:
    path = root / "corpus.jsonl"
    path.write_text(path.read_text() + "\n" + line + "\n")
    text = message(beir.read_corpus, root)
    assert f"{path}:5: " in text
    assert problem in text


def test_a_surrogate_pair_is_a_character(root: Path) -> None:
    (root / "corpus.jsonl").write_text('{"_id": "x", "text": "\\ud83d\\ude00"}\n')
    assert beir.read_corpus(root).texts == ["😀"]


def test_all_bad_lines_are_collected_and_ten_shown(root: Path) -> None:
    (root / "corpus.jsonl").write_text("{\n" * 13)
    text = message(beir.read_corpus, root)
    assert "corpus.jsonl:10: " in text
    assert "corpus.jsonl:11: " not in text
    assert "bad row(s): 13" in text
    assert "3 more" in text


def test_invalid_utf8_is_named(root: Path) -> None:
    path = root / "queries.jsonl"
    path.write_bytes(path.read_bytes() + b'{"_id": "q3", "text": "\xff"}\n')
    text = message(beir.read_queries, root)
    assert f"{path}:3: unreadable: not UTF-8" in text


@pytest.mark.parametrize("cut", [0.5, 0.98])
def test_a_truncated_gzip_is_named(root: Path, cut: float) -> None:
    records = [{"_id": str(i), "text": f"text {i * 7919 % 104729}"} for i in range(2000)]
    data = gzip.compress(json_lines(records).encode())
    (root / "corpus.jsonl").unlink()
    (root / "corpus.jsonl.gz").write_bytes(data[: int(len(data) * cut)])
    assert "truncated" in message(beir.read_corpus, root)


def test_what_is_no_gzip_and_what_is_damaged_is_named(root: Path) -> None:
    path = root / "c.jsonl.gz"
    path.write_text(json_lines(CORPUS))
    assert "not a sound gzip" in message(beir.read_corpus, path)
    data = bytearray(gzip.compress(json_lines(CORPUS * 1).encode()))
    data[-6] ^= 1
    path.write_bytes(data)
    assert "not a sound gzip" in message(beir.read_corpus, path)


def test_missing_and_empty_files(root: Path) -> None:
    assert "no such file" in message(beir.read_corpus, root / "nowhere")
    assert "no such folder" in message(beir.load_dataset, root / "nowhere", "test")
    (root / "corpus.jsonl").write_text("\n")
    assert "has no passage" in message(beir.read_corpus, root)
    (root / "corpus.jsonl").unlink()
    assert "has no corpus.jsonl" in message(beir.read_corpus, root)


def test_an_unknown_split_names_those_there_are(root: Path) -> None:
    (root / "qrels" / "dev.tsv.gz").write_bytes(b"")
    assert "there are: dev, test" in message(beir.load_dataset, root, "train")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q1\td1", "2 column(s), wanted 3"),
        ("q1\t0\td9\t1", "4 column(s), wanted 3"),
        ("q1\td9\thigh", "'high' is not a whole number"),
        ("q1\td9\t1.5", "'1.5' is not a whole number"),
        ("q1\td9\t", "'' is not a whole number"),
        ("q1\t\t1", "an empty id"),
        ("q1\td1\t1", "line 2 has another grade"),
    ],
)
def test_a_bad_qrels_line_is_named(root: Path, line: str, problem: str) -> None:
    path = root / "qrels" / "test.tsv"
    path.write_text(path.read_text() + line + "\n")
    text = message(beir.load_dataset, root, "test")
    assert f"{path}:5: " in text
    assert problem in text


def test_a_repeated_judgment_and_a_negative_grade_are_fine(root: Path) -> None:
    path = root / "qrels" / "test.tsv"
    path.write_text(HEADER + "q1\td1\t2\nq1\td1\t2\nq2\td2\t-1\n")
    assert beir.read_qrels(path) == {"q1": {"d1": 2}, "q2": {"d2": -1}}


def test_trec_qrels_and_a_missing_header(root: Path) -> None:
    path = root / "qrels.txt"
    path.write_text("q1 0 d1 2\nq2 Q0 d2 1\n")
    assert beir.read_qrels(path) == {"q1": {"d1": 2}, "q2": {"d2": 1}}
    path.write_text("q1\td1\t2\nq2\td2\t1\n")
    assert beir.read_qrels(path) == {"q1": {"d1": 2}, "q2": {"d2": 1}}
    path.write_text(HEADER)
    assert "no judgments" in message(beir.read_qrels, path)


def test_a_split_is_a_tsv_file_gzip_or_not(root: Path) -> None:
    folder = root / "qrels"
    for name in ("dev.tsv.gz", "test.tsv.gz", "test.tsv.bak", "notes.txt"):
        (folder / name).write_bytes(b"")
    assert beir.qrels_files(root) == {
        "dev": folder / "dev.tsv.gz",
        "test": folder / "test.tsv",
    }
    assert beir.find_qrels(root, "test") == folder / "test.tsv"


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_byte_order_mark_is_no_part_of_a_file(root: Path, name: str) -> None:
    plain = beir.load_dataset(root, "test")
    path = root / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert beir.load_dataset(root, "test") == plain


def test_a_byte_order_mark_before_qrels_without_a_header(root: Path) -> None:
    path = root / "qrels" / "test.tsv"
    for text in ("q1\td1\t2\n", "q1 0 d1 2\n"):
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert beir.read_qrels(path) == {"q1": {"d1": 2}}


def test_a_nul_in_qrels_is_named(root: Path) -> None:
    path = root / "qrels" / "test.tsv"
    path.write_text("q1\td1\0\t2\n")
    assert f"{path}:1: a NUL character" in message(beir.read_qrels, path)


def test_queries_have_other_names_of_fields_too(root: Path) -> None:
    path = root / "queries.jsonl"
    records = [{"id": 1, "query": "lift"}, {"query_id": "b", "text": "drag", "title": 3}]
    path.write_text(json_lines(records))
    assert beir.read_queries(root) == {"1": "lift", "b": "drag"}
    path.write_text(json_lines([*QUERIES, *QUERIES]))
    assert f"{path}:3: repeated id: 'q1'" in message(beir.read_queries, root)


def test_a_corpus_in_parquet_has_judgments_too(root: Path) -> None:
    plain = beir.load_dataset(root, "test")
    (root / "corpus.jsonl").unlink()
    corpus = plain.corpus
    columns = {"id": corpus.doc_ids, "title": corpus.titles, "contents": corpus.texts}
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "part-0.parquet")
    assert beir.load_dataset(root, "test") == plain


class Warnings:
    """Collects what absl logs as warnings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.lines: list[str] = []
        monkeypatch.setattr(
            absl_logging, "warning", lambda text, *args: self.lines.append(text % args)
        )


def test_absent_passages_are_kept_and_absent_queries_dropped(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "qrels" / "test.tsv"
    path.write_text(path.read_text() + "q1\tgone\t1\nlost\td1\t1\n")
    warnings = Warnings(monkeypatch)
    dataset = beir.load_dataset(root, "test")
    assert dataset.qrels == {"q1": {"d1": 2, "gone": 1}, "q2": {"d2": 1, "d1": 0}}
    assert len(warnings.lines) == 2
    assert "1 of 3 queries" in warnings.lines[0]
    assert "1 of 4 judgments" in warnings.lines[1]


def test_qrels_that_fit_nothing_are_an_error(root: Path) -> None:
    path = root / "qrels" / "test.tsv"
    path.write_text(HEADER + "q1\tx\t1\nq2\ty\t1\n")
    assert "none of its passages" in message(beir.load_dataset, root, "test")
    path.write_text(HEADER + "x\td1\t1\n")
    assert "none of its 1 queries" in message(beir.load_dataset, root, "test")


def test_a_split_keeps_only_its_own_queries(root: Path) -> None:
    (root / "qrels" / "dev.tsv").write_text(HEADER + "q2\td2\t1\n")
    assert beir.load_dataset(root, "dev").queries == {"q2": "drag"}


def test_written_datasets_are_read_back(root: Path, tmp_path: Path) -> None:
    dataset = beir.load_dataset(root, "test")
    copy = tmp_path / "new" / "copy"
    for _ in range(2):  # the second time over the first
        beir.write_dataset(copy, dataset.corpus, dataset.queries, {"test": dataset.qrels})
        read = beir.load_dataset(copy, "test")
        assert (read.corpus, read.queries, read.qrels) == (
            *(dataset.corpus, dataset.queries, dataset.qrels),
        )
        assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_a_failed_writing_leaves_nothing(root: Path, tmp_path: Path) -> None:
    corpus = beir.Corpus(["a"], [""], [])
    with pytest.raises(ValueError, match="shorter"):
        beir.write_dataset(tmp_path / "new", corpus, {}, {})
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_fingerprint_sees_every_text(root: Path) -> None:
    corpus = beir.read_corpus(root)
    seen = {beir.corpus_fingerprint(corpus)}
    assert beir.corpus_fingerprint(beir.read_corpus(root)) in seen
    for column in ("doc_ids", "titles", "texts"):
        values = vars(corpus) | {column: [*getattr(corpus, column)[:2], "other"]}
        seen.add(beir.corpus_fingerprint(beir.Corpus(**values)))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("name", "split", "passages", "queries", "judgments"),
    [
        ("scifact", "test", 5183, 300, 339),
        ("nfcorpus", "dev", 3633, 324, 11385),
        ("msmarco_dl19", "test", 41634, 43, 9260),
        ("mediqa2019", "train", 2398, 208, 1701),
        ("cranfield", "test", 1400, 225, 1837),
    ],
)
def test_real_collections(
    data_dir: Path, name: str, split: str, passages: int, queries: int, judgments: int
) -> None:
    dataset = beir.load_dataset(data_dir / name, split)
    assert len(dataset.corpus) == passages
    assert len(dataset.queries) == queries
    assert sum(map(len, dataset.qrels.values())) == judgments


def test_both_forms_of_real_qrels_agree(data_dir: Path) -> None:
    folder = data_dir / "msmarco_dl19" / "qrels"
    assert beir.read_qrels(folder / "test.tsv") == beir.read_qrels(folder / "dl19.trec.txt")
