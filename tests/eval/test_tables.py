"""Corpora in CSV and TSV, and files that are not what their name says."""

import gzip
from pathlib import Path

import pytest

from ldx.common.errors import UserError
from ldx.common.lines import Lines
from ldx.eval import beir
from ldx.eval.beir import read_corpus
from ldx.eval.passages import read_passages


def corpus_of(path: Path) -> list[tuple[str, str, str]]:
    corpus = read_corpus(path)
    return list(zip(corpus.doc_ids, corpus.titles, corpus.texts, strict=True))


QUOTED = [("1", "", '"Hello" he said'), ("2", "", '"first'), ("3", "", 'second"')]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        # MS MARCO's collection.tsv has no first line of names, and quotation marks are text.
        (
            "c.tsv",
            '0\tthe "first\n1\tsecond, of two\n',
            [("0", "", 'the "first'), ("1", "", "second, of two")],
        ),
        # DPR's has, and its texts are quoted.
        ("c.tsv", 'id\ttext\ttitle\n1\t"a ""b"" c"\tT\n', [("1", "T", 'a "b" c')]),
        (
            "c.csv",
            'docid,title,contents\nx,"T, t","two\n\nlines"\n',
            [("x", "T, t", "two\n\nlines")],
        ),
        ("c.csv", "\ufeffPID,Passage\n7,text\n", [("7", "", "text")]),
        ("c.tsv", "id\ttext\r\n1\tone\rtext\r\n", [("1", "", "one\rtext")]),
        ("c.csv", "text,_id\r\na text,5\r\n", [("5", "", "a text")]),
        ("c.tsv", 'id\ttext\n1\t"Hello" he said\n2\t"first\n3\tsecond"\n', QUOTED),
    ],
)
@pytest.mark.parametrize("is_gzip", [False, True])
def test_tables_are_corpora(tmp_path, name, content, expected, is_gzip):
    path = tmp_path / (f"{name}.gz" if is_gzip else name)
    data = content.encode()
    path.write_bytes(gzip.compress(data) if is_gzip else data)
    assert corpus_of(path) == expected
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / path.name.replace("c.", "corpus."))
    assert corpus_of(tmp_path / "folder") == expected


def test_rows_with_other_columns_are_named(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("id,text\na,one\nb\nc,two,three\nd,four\n")
    bad = []
    good = [item.passage.doc_id for item in read_passages(path, reject=bad.append)]
    assert good == ["a", "d"]
    assert [(row.where, row.detail) for row in bad] == [
        (f"{path}:3", "1 column(s), wanted 2"),
        (f"{path}:4", "3 column(s), wanted 2"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "has no column _id or id"),
        ('id,text\na,"one\nb,two\n', "unexpected end of data; mend the file"),
        ('id,text\na,"one" two\n', "mend the file"),
    ],
)
def test_tables_that_are_damaged_are_no_corpora(tmp_path, content, message):
    """What comes after the damage would be lost."""
    path = tmp_path / "c.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_corpus(path, max_bad=0.5)


LATIN = "caf\u00e9".encode("latin-1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"_id": "a", "text": "' + LATIN + b'"}', "'\u00e9': if that is the encoding"),
        ('{"_id": "a", "text": "\u00e9t\u00e9"}'.encode()[:-3], "a letter is cut in two"),
        ('{"_id": "a", "text": "\u4f60\u597d"}'.encode("gb18030"), "convert the file from its"),
        ('{"_id": "a"}'.encode("utf-16"), "the file is UTF-16; convert it by iconv"),
        (gzip.compress(b'{"_id": "a", "text": "x"}', mtime=2**31 + 200), "must end in .gz"),
        (b"PK\x03\x04\xff\xff", "a ZIP archive"),
        (b"PAR1\xff\xff", "Parquet"),
    ],
)
def test_files_of_other_kinds_are_told_as_such(tmp_path, data, message):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(data)
    lines = Lines(path)
    assert list(lines) == []
    with pytest.raises(UserError) as caught:
        lines.finish("text")
    assert f"{path}:1: " in str(caught.value)
    assert message in str(caught.value)


def test_a_table_in_latin_1_is_told_as_such(tmp_path):
    path = tmp_path / "c.csv"
    path.write_bytes(b"id,text\na," + LATIN + b"\n")
    with pytest.raises(UserError, match="iconv -f WINDOWS-1252"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("grade", "message"),
    [
        ("2147483648", "grade 2147483648 is no number of 32 bits"),
        ("1.5", "grade '1.5' is not a whole number"),
        ("nan", "grade 'nan' is not a whole number"),
    ],
)
def test_grades_that_records_cannot_hold(tmp_path, grade, message):
    path = tmp_path / "test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq\td\t{grade}\n")
    with pytest.raises(UserError, match=message):
        beir.read_qrels(path)
