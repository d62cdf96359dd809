"""Corpora of every kind are read the same, as a stream, and bad rows do not end the reading."""

import gzip
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ldx.common.errors import UserError
from ldx.eval import beir, rows
from ldx.eval import passages as corpus_passages
from ldx.eval.passages import location_fingerprint, read_passages
from ldx.eval.rows import Flaw
from ldx.records.schema import Passage
from tests.eval.corpora import PASSAGES, RECORDS, Rejected, json_lines, message, read


def write_parquet(path: Path, columns: dict, **options: int) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def columns_of(records: list[dict]) -> dict[str, list]:
    return {name: [record[name] for record in records] for name in records[0]}


@pytest.fixture(params=["beir", "beir.gz", "jsonl", "jsonl.gz", "parquet", "parquet folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """PASSAGES in each form."""
    data = json_lines(RECORDS)
    match request.param:
        case "beir":
            (tmp_path / "corpus.jsonl").write_bytes(data)
            write_parquet(tmp_path / "other.parquet", {"a": [1]})  # the corpus is what counts
            return tmp_path
        case "beir.gz":
            (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(data))
            return tmp_path
        case "parquet":
            return write_parquet(tmp_path / "c.parquet", columns_of(RECORDS), row_group_size=2)
        case "parquet folder":
            write_parquet(tmp_path / "b.parquet", columns_of(RECORDS[1:]))
            write_parquet(tmp_path / "a.parquet", columns_of(RECORDS[:1]))
            (tmp_path / ".c.parquet.1.tmp").write_bytes(b"half")
            (tmp_path / "_metadata.parquet").write_bytes(b"not rows")
            return tmp_path
    path = tmp_path / f"any.{request.param}"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_every_form_gives_the_same_passages(source: Path) -> None:
    where, passages, rejected = read(source)
    assert passages == PASSAGES
    assert rejected.rows == []
    assert len(set(where)) == 3
    files = [source] if source.is_file() else list(source.iterdir())
    assert all(any(w.startswith(f"{file}:") for file in files) for w in where)


@pytest.mark.parametrize("name", ["scifact", "nfcorpus", "cranfield"])
def test_real_collections(data_dir: Path, name: str) -> None:
    corpus = beir.read_corpus(data_dir / name)
    empty = [
        doc for doc, text in zip(corpus.doc_ids, corpus.texts, strict=True) if not text.strip()
    ]
    assert read(data_dir / name)[1] == [
        Passage(*fields) for fields in zip(corpus.doc_ids, corpus.titles, corpus.texts, strict=True)
    ]
    where, passages, rejected = read(data_dir / name, template="{text}")
    assert [p.doc_id for p in passages] == [doc for doc in corpus.doc_ids if doc not in empty]
    kept = dict(zip(corpus.doc_ids, zip(corpus.titles, corpus.texts, strict=True), strict=True))
    assert all(kept[p.doc_id] == (p.title, p.text) for p in passages)
    assert [reason.partition(":")[0] for _, reason, _ in rejected.rows] == [
        Flaw.EMPTY_TEXT for _ in empty
    ]
    assert where[0] == f"{data_dir / name / 'corpus.jsonl.gz'}:1"


@pytest.mark.parametrize("id_name", ["_id", "id", "doc_id"])
@pytest.mark.parametrize("text_name", ["text", "body", "contents"])
def test_other_names_of_fields(tmp_path: Path, id_name: str, text_name: str) -> None:
    records = [{"x": 1.5, text_name: "A wing.", id_name: 7}, {text_name: "Lift.", id_name: 8}]
    path = tmp_path / "c.jsonl"
    path.write_bytes(json_lines(records))
    wanted = [Passage("7", "", "A wing."), Passage("8", "", "Lift.")]
    assert read(path)[1] == wanted
    columns = {text_name: ["A wing.", "Lift."], "x": [1.5, None], id_name: [7, 8]}
    assert read(write_parquet(tmp_path / "c.parquet", columns))[1] == wanted


def test_the_first_of_several_names_counts(tmp_path: Path) -> None:
    record = {"id": "b", "_id": "a", "contents": "y", "text": "x", "body": "z", "title": None}
    path = tmp_path / "c.jsonl"
    path.write_bytes(json_lines([record]))
    assert read(path)[1] == [Passage("a", "", "x")]
    columns = {name: [value] for name, value in record.items()}
    assert read(write_parquet(tmp_path / "c.parquet", columns))[1] == [Passage("a", "", "x")]


@pytest.mark.parametrize(
    ("line", "kind", "detail"),
    [
        ('{"_id": "x", "text": ', Flaw.NOT_JSON, "Expecting value"),
        ("[1, 2]", Flaw.BAD_FIELD, "list instead of an object"),
        ('{"text": "a"}', Flaw.BAD_FIELD, "no _id; it has 'text'"),
        ('{"_id": "x", "title": "a"}', Flaw.BAD_FIELD, "no text"),
        ('{"_id": "x", "text": 3}', Flaw.BAD_FIELD, "text is int"),
        ('{"id": "x", "body": null}', Flaw.BAD_FIELD, "text is NoneType"),
        ('{"_id": "x", "title": [], "text": "a"}', Flaw.BAD_FIELD, "title is list"),
        ('{"_id": 1.5, "text": "a"}', Flaw.BAD_FIELD, "_id is 1.5"),
        ('{"_id": "", "text": "a"}', Flaw.BAD_FIELD, "empty"),
        ('{"_id": "a\\tb", "text": "a"}', Flaw.BAD_FIELD, "tab"),
        ('{"_id": "a\\nb", "text": "a"}', Flaw.BAD_FIELD, "line break"),
        ('{"_id": "x", "text": "\\ud800"}', Flaw.BAD_FIELD, "surrogate"),
        ('{"_id": "x", "title": "\\uDC00", "text": "a"}', Flaw.BAD_FIELD, "surrogate"),
        ('{"_id": "x", "text": ""}', Flaw.EMPTY_TEXT, ""),
        ('{"_id": "x", "title": "only", "text": " \\n "}', Flaw.EMPTY_TEXT, ""),
        ('{"_id": "d1", "text": "again"}', Flaw.REPEATED_ID, "'d1'"),
        ('{"_id": 3, "text": "again"}', Flaw.REPEATED_ID, "'3'"),
        ('{"_id": "x ", "text": "a"}', Flaw.BAD_FIELD, "'x ' has a blank at an end"),
        ('{"_id": "\\u3000x", "text": "a"}', Flaw.BAD_FIELD, "has a blank at an end"),
        ('{"_id": "a\\u0000b", "text": "a"}', Flaw.BAD_FIELD, "NUL"),
        ('{"_id": "x", "text": "a", "n": ' + "9" * 5000 + "}", Flaw.NOT_JSON, "digits"),
        ('{"_id": "x\0", "text": "a"}', Flaw.UNREADABLE, "NUL"),
        ("9" * 5000, Flaw.NOT_JSON, "digits"),
        ("[" * 100_000, Flaw.NOT_JSON, "recursion"),
        (b'{"_id": "x", "text": "\xff"}', Flaw.UNREADABLE, "not UTF-8"),
    ],
)
def test_a_bad_line_is_rejected_and_reading_goes_on(
    tmp_path: Path, line: str | bytes, kind: str, detail: str
) -> None:
    path = tmp_path / "corpus.jsonl"
    data = line.encode() if isinstance(line, str) else line
    last = b'{"_id": "last", "text": "the end"}\n'
    path.write_bytes(json_lines(RECORDS) + b"\n" + data + b"\n" + last)
    where, passages, rejected = read(path, template="{text}")
    assert passages == [*PASSAGES, Passage("last", "", "the end")]
    assert where[-1] == f"{path}:6"
    [(bad_where, reason, excerpt)] = rejected.rows
    assert bad_where == f"{path}:5"
    assert reason.startswith(f"{kind}: ")
    assert detail in reason
    assert len(excerpt) <= 200
    excerpt.encode()


def test_a_title_alone_is_a_passage_where_the_template_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(
        json_lines([RECORDS[0], {"_id": "x", "title": "only"}, {"_id": "y", "text": " "}])
        + b'{"_id": "z", "title": "only", "text": ""}\n'
    )
    only_title, nothing = Passage("z", "only", ""), Passage("y", "", " ")
    assert read(path)[1] == [PASSAGES[0], nothing, only_title]
    _, passages, rejected = read(path, template="{title} {text}")
    assert passages == [PASSAGES[0], only_title]
    assert "empty text: the template '{title} {text}' leaves nothing of 'y'" in rejected.rows[1][1]
    assert read(path, template="{text}")[1] == [PASSAGES[0]]


def test_an_id_may_have_all_else_in_it(tmp_path: Path) -> None:
    inner = [
        " ",
        "\xa0",
        "\u2028",
        "\x85",
        "\x0b",
        "\x1c",
        "/../",
        "#",
        "<b>",
        ',"',
        "😀",
        "e\u0301",
    ]
    ids = [f"a{each}b" for each in inner]
    path = tmp_path / "c.jsonl"
    path.write_bytes(json_lines([{"_id": doc_id, "text": "a"} for doc_id in ids]))
    assert [passage.doc_id for passage in read(path)[1]] == ids


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_who_wants_no_bad_rows_is_told_the_same(tmp_path: Path, ending: str) -> None:
    """`read_corpus` accepts what `read_passages` accepts, and names what it rejects."""
    path = tmp_path / f"c.{ending}"
    records = [*RECORDS, RECORDS[0], {"_id": " x", "title": "", "text": "a"}]
    if ending == "parquet":
        write_parquet(path, columns_of(records))
    else:
        data = json_lines(records)
        path.write_bytes(gzip.compress(data) if ending == "jsonl.gz" else data)
    _, passages, rejected = read(path)
    assert passages == PASSAGES
    with pytest.raises(UserError) as caught:
        beir.read_corpus(path)
    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [
        f"{where}: {reason}" for where, reason, _ in rejected.rows
    ]
    with pytest.raises(UserError, match=r"2 bad row\(s\), more than 0.39 of all"):
        beir.read_corpus(path, max_bad=0.39)
    assert beir.read_corpus(path, max_bad=0.4).doc_ids == ["d1", "d2", "3"]


def test_a_truncated_gzip_keeps_what_came_before(tmp_path: Path) -> None:
    records = [{"_id": str(i), "text": f"text {i * 7919 % 104729}"} for i in range(2000)]
    data = gzip.compress(json_lines(records))
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    _, passages, rejected = read(tmp_path)
    assert 100 < len(passages) < 2000
    assert passages == [Passage(r["_id"], "", r["text"]) for r in records[: len(passages)]]
    assert rejected.rows[-1][0] == f"{path}:{len(passages) + 1}"
    assert "unreadable: the gzip file is truncated" in rejected.rows[-1][1]


def test_bad_values_of_parquet(tmp_path: Path) -> None:
    not_utf8 = pyarrow.array([b"caf\xe9", b"cafe"], pyarrow.binary()).view(pyarrow.string())
    path = write_parquet(tmp_path / "a.parquet", {"_id": ["a", "b"], "text": not_utf8})
    _, passages, rejected = read(path)
    assert passages == [Passage("b", "", "cafe")]
    assert rejected.rows[0][:2] == (f"{path}:row 1", "bad field: text is bytes, wanted a string")
    columns = {"_id": ["a", None, "c", "d"], "text": ["x", "y", None, "z"]}
    path = write_parquet(tmp_path / "b.parquet", columns)
    where, passages, rejected = read(path)
    assert where == [f"{path}:row 1", f"{path}:row 4"]
    assert [row[0] for row in rejected.rows] == [f"{path}:row 2", f"{path}:row 3"]


@pytest.mark.parametrize("damage", ["no parquet", "cut", "page"])
def test_a_damaged_parquet_file_does_not_end_the_reading(tmp_path: Path, damage: str) -> None:
    columns = {"_id": [f"a{i}" for i in range(3000)], "text": [f"t{i * i}" for i in range(3000)]}
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=1000)
    data = bytearray(path.read_bytes())
    match damage:
        case "no parquet":
            data = bytearray(b"something else entirely")
        case "cut":
            del data[len(data) // 2 :]
        case "page":
            group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
            start = group.dictionary_page_offset or group.data_page_offset
            data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)
    write_parquet(tmp_path / "b.parquet", columns_of(RECORDS))
    _, passages, rejected = read(tmp_path)
    num_before = len(passages) - len(PASSAGES)
    assert passages[num_before:] == PASSAGES
    assert num_before == (1000 if damage == "page" else 0)
    [(where, reason, _)] = rejected.rows
    assert where == f"{path}:row {num_before + 1}"
    assert reason.startswith("unreadable: the file breaks off or is damaged")


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", {"number": ["a"], "text": ["b"]})
    text = message(path)
    assert f"{path} has no column _id or id or doc_id or" in text
    assert "; its columns are: number, text" in text
    path = write_parquet(tmp_path / "c.parquet", {"words": ["b"]})
    assert "no column _id or id or doc_id or" in message(path)
    assert ", and none named text or body or contents or" in message(path)


def test_without_pyarrow_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "c.parquet", columns_of(RECORDS))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "to read Parquet, `pip install pyarrow`" in message(path)


def test_sources_that_cannot_be(tmp_path: Path) -> None:
    assert "has no corpus.jsonl, no corpus.jsonl.gz, no corpus.tsv" in message(tmp_path)
    assert "no such file or folder" in message(tmp_path / "nowhere")
    assert "no such file or folder" in message("data/corpus.jsonl")
    path = tmp_path / "corpus.xml"
    path.write_text("a,b\n")
    assert "must end in .jsonl" in message(path)
    # Before anything is read: a generator would only say so at the first passage.
    with pytest.raises(UserError):
        read_passages(str(path), reject=Rejected())


def test_nothing_good_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n")
    assert "has no passage\nwanted: a JSON object" in message(path)
    path.write_text('{"key": "x"}\n' * 9)
    text = message(path)
    assert f"{path}:1: bad field: no _id and no text; it has 'key'" in text
    assert f"{path}:9: " in text
    path.write_text("{\n" * 13)
    text = message(path)
    assert f"{path}:10: not valid JSON" in text
    assert "bad row(s): 13" in text
    assert "... and 3 more" in text


def test_repeated_ids_are_found_across_batches_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_passages, "PASSAGES_AT_ONCE", 4)
    rng = np.random.default_rng(0)
    ids = [str(i) for i in rng.integers(0, 60, 100)]
    for number in range(4):
        some = slice(25 * number, 25 * number + 25)
        columns = {"id": ids[some], "text": [f"text {i}" for i in range(100)][some]}
        write_parquet(tmp_path / f"{number}.parquet", columns)
    _, passages, rejected = read(tmp_path)
    first: dict[str, str] = {}
    for number, doc_id in enumerate(ids):
        first.setdefault(doc_id, f"text {number}")
    assert [(p.doc_id, p.text) for p in passages] == list(first.items())
    assert len(rejected.rows) == 100 - len(first)
    assert {reason.partition(":")[0] for _, reason, _ in rejected.rows} == {"repeated id"}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_corpus_is_never_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(corpus_passages, "CHARS_AT_ONCE", 100_000)
    records = [{"_id": str(i), "text": f"{i} " + "wing " * 400} for i in range(5000)]  # 10 MB
    path = tmp_path / f"corpus.{ending}"
    if ending == "jsonl":
        path.write_bytes(json_lines(records))
    else:
        monkeypatch.setattr(rows, "PARQUET_ROWS_AT_ONCE", 64)
        write_parquet(path, columns_of(records))
    del records
    list(zip(range(3), read_passages(str(path), reject=Rejected()), strict=False))  # imports
    tracemalloc.start()
    num = sum(1 for _ in read_passages(str(path), reject=Rejected()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num == 5000
    assert peak < 2_000_000


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(RECORDS))
    first = location_fingerprint(str(path))
    (tmp_path / "corpus.jsonl").write_bytes(path.read_bytes())
    assert location_fingerprint(str(tmp_path)) == first
    path.write_bytes(json_lines(RECORDS[:2]))
    assert location_fingerprint(str(path)) != first
    folder = tmp_path / "folder"
    folder.mkdir()
    write_parquet(folder / "a.parquet", columns_of(RECORDS))
    one = location_fingerprint(str(folder))
    write_parquet(folder / "b.parquet", columns_of(RECORDS))
    assert location_fingerprint(str(folder)) != one
    names = ["BeIR/fiqa", "BeIR/fiqa@main", "BeIR/fiqa@1", "BeIR/scifact@1"]
    hub = [location_fingerprint(name) for name in names]
    assert hub[0] == hub[1]
    assert len(set(hub)) == 3
    with pytest.raises(UserError, match="no such file"):
        location_fingerprint(str(tmp_path / "nowhere.jsonl"))
