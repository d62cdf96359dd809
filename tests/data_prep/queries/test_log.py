"""Tests of data_prep/queries/log.py: what is read of a query log, and what is left out."""

import gzip
import json

import pytest

from data_prep.corpora.leaks import TestQueries
from data_prep.pipeline.draws import split_of
from data_prep.pipeline.workspace import open_workspace
from data_prep.queries.log import clean_log, log_queries
from ldx.common.errors import UserError
from tests.data_prep.toy import make_collection, make_config

TEXTS = ["how to sort  an array", "How to sort an array?", "banded matrix", "to sort how an array"]


def workspace_of(path, **settings):
    config = make_config(path.parent, path)
    config.prep.queries = "log"
    config.prep.log = str(path)
    config.prep.update(settings)
    return open_workspace(config, path.parent / "work")


def counts_of(path, **settings):
    """How often each query of a log was typed."""
    entries = clean_log(workspace_of(path, **settings)).entries.values()
    return {entry.text: entry.count for entry in entries}


FILES = {
    "log.txt": "\n".join(TEXTS),
    "log.tsv": "query\tcount\n" + "".join(f"{t}\t{i}\n" for i, t in enumerate(TEXTS, 1)),
    "log.jsonl": "".join(
        json.dumps({"text" if i % 2 else "query": t, "count": i}) + "\n"
        for i, t in enumerate(TEXTS, 1)
    ),
}


@pytest.mark.parametrize("name", [*FILES, *(f"{name}.gz" for name in FILES)])
def test_every_form_is_read_and_the_counts_of_equal_queries_add_up(tmp_path, name):
    path, text = tmp_path / name, FILES[name.removesuffix(".gz")]
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    counts = [2, 1, 1] if "txt" in name else [3, 3, 4]
    texts = ["how to sort an array", "banded matrix", "to sort how an array"]
    assert counts_of(path) == dict(zip(texts, counts, strict=True))


def test_what_is_no_query_is_left_out_and_counted(tmp_path):
    path = tmp_path / "log.txt"
    lines = ["acne", "  ", "?!", "x", "2014 7", "https://a.org/x", "www.a.org http://b.c/d", "ab"]
    path.write_text("\n".join([*lines, "see https://a.org", "word " * 200, "Acne."]) + "\n")
    log = clean_log(workspace_of(path))
    assert [entry.text for entry in log.entries.values()] == ["acne", "ab", "see https://a.org"]
    assert log.dropped == {
        "log: empty": 1,
        "log: too short": 2,
        "log: a link": 2,
        "log: too long": 1,
        "log: equal to another of the log": 1,
    }


BAD = {
    "log.tsv": (
        f"a query\t1\nno tab\nb\t1.5\nc\t0\nd\t2\te\nf\t{'9' * 5000}\n",
        ["2: 1 col", "3: the count", "4:", "6: the count"],
    ),
    "log.jsonl": (
        '{"query": "acne"}\n{"q": "b"}\n[1]\n{"query": "c", "count": true}\nno\n{"text": 3}\n',
        ["2: no text under", "3: a list", "4: the count is True", "5: not valid", "6: no text"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_told_together(tmp_path, name, caplog):
    path, (text, told) = tmp_path / name, BAD[name]
    path.write_text(text)
    with pytest.raises(UserError) as error:
        clean_log(workspace_of(path))
    for line in told:
        assert f"{path}:{line}" in str(error.value)
    assert "config.prep.max_rejects=0.01" in str(error.value)
    assert len(counts_of(path, max_rejects=0.9)) == 1
    assert f"{path}:{told[0]}" in caplog.text


def test_a_file_without_queries_or_of_no_known_form(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("\n \n")
    with pytest.raises(UserError, match=r"log\.txt: has no queries; wanted: a query a line"):
        clean_log(workspace_of(path))
    other = tmp_path / "log.csv"
    other.write_text("a,1\n")
    with pytest.raises(UserError, match=r"must end in \.txt, \.tsv, \.jsonl"):
        clean_log(workspace_of(other))
    with pytest.raises(UserError, match="no such file"):
        clean_log(workspace_of(tmp_path / "none.txt"))


def test_test_and_dev_queries_and_what_is_near_them_is_left_out(tmp_path):
    path = tmp_path / "log.txt"
    lines = ["do statins help against cancer", "Do statin help against cancer?", "deafness cures?"]
    path.write_text("\n".join([*lines, "please do statins help against the flu", "cures deafness"]))
    test = TestQueries(["Do statins help against cancer?", "do statins help"])
    log = log_queries(workspace_of(path), test, TestQueries(["deafness cures"]))
    assert [query.text for query in log.queries] == ["please do statins help against the flu"]
    assert log.dropped == {
        "log: holds a test query": 1,
        "log: nearly a test query": 1,
        "log: a dev query of the collection, or nearly one": 2,
    }


def test_a_query_has_no_passage_and_no_judgment_and_its_words_decide_its_split(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("".join(f"banded matrix {i}\t2\nmatrix {i} banded\t1\n" for i in range(200)))
    log = log_queries(workspace_of(path), TestQueries([]), TestQueries([]))
    assert len(log.queries) == len(log.counts) == 400
    splits = {}
    for query in log.queries:
        assert (query.query_type, query.row, query.excerpt) == ("log", -1, "")
        assert (query.judged, query.needed_rows, query.is_judged) == ({}, [], False)
        words = frozenset(query.text.split())
        split = query.split(0.3, seed=0)
        assert splits.setdefault(words, split) == split == split_of(0.3, 0, query.group)
    assert list(splits.values()).count("dev") == pytest.approx(60, abs=20)


def test_the_queries_of_a_split_are_a_log_and_their_judgments_are_not_read(tmp_path):
    root = make_collection(tmp_path / "toy")
    config = make_config(root, tmp_path)
    config.prep.queries = "log"
    config.prep.log = "split:train"
    log = log_queries(open_workspace(config, tmp_path), TestQueries([]), TestQueries([]))
    assert {query.query_id for query in log.queries} == {f"log:q{i}" for i in range(1, 60, 2)}
    assert all(not query.relevant and not query.irrelevant for query in log.queries)
    config.prep.log = "split:test"
    with pytest.raises(UserError, match=r"split:test.*config\.eval\.split names the same split"):
        clean_log(open_workspace(config, tmp_path))
    config.prep.log = "split:validation"
    with pytest.raises(UserError, match=r"config\.prep\.log='split:validation': .*validation"):
        clean_log(open_workspace(config, tmp_path))
