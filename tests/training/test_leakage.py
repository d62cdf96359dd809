"""What training lists share with the test, counted by hand, and counted once."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from ldx.data.lists import ListTable
from ldx.data.sources import Source, SourceConfig
from ldx.eval.beir import Corpus, Dataset
from ldx.records.manifest import Manifest
from ldx.records.schema import ListRecord, Passage
from ldx.records.sets import PassageSet, write_lists, write_passages
from ldx.training.leakage import find_leakage, read_leakage, report_leakage


def make_list(number, query, rows):
    none = np.zeros(0, np.float32)
    return ListRecord(
        list_id=f"l{number}",
        query_id=f"l{number}",
        query=query,
        query_type="title",
        source="c",
        source_row=-1,
        rows=np.array(rows),
        labels=np.full(len(rows), -1, np.int32),
        teacher_scores=np.linspace(1, 0, len(rows), dtype=np.float32),
        raw_scores=none,
        order_key=0,
    )


COUNTS = {
    "num_lists": 3,
    "num_queries": 2,
    "lists_with_test_query": 1,
    "judgments_in_lists": 1,  # of q1, only d0 is in the list of its words; d1 is not relevant
    "judged_passages": 4,
    "judged_in_lists": 3,
    "judged_as_positives": 2,
}
STRICT = COUNTS | {  # of d3 and d8 alone
    "judgments_in_lists": 0,
    "judged_passages": 2,
    "judged_in_lists": 1,
    "judged_as_positives": 1,
}


@pytest.fixture
def source(tmp_path):
    write_passages(tmp_path, [Passage(f"d{i}", "", f"text {i}") for i in range(10)])
    lists = [
        make_list(0, "What is, a cell?", [0, 1, 2]),  # the words of q1, whose d0 and d3 are judged
        make_list(1, "another question", [3, 4]),
        make_list(2, "a third", [4, 5]),
    ]
    counts = write_lists(tmp_path, {"train": lists, "dev": [make_list(3, "dev", [0])]})
    queries: dict[str, int] = {}
    table = ListTable.read(lists, queries)
    manifest = Manifest(
        collection="c", num_passages=10, num_lists=counts, passage_template="{text}", seed=0,
        fingerprints={"passages": "p", "lists": "l"}, max_chars=None, teachers=[],
        num_synthetic_passages=1,
    )  # fmt: skip
    return Source(
        "c", SourceConfig(str(tmp_path)), manifest, table, table, table, list(queries), None, None
    )


def make_dataset(root, doc_ids):
    return Dataset(
        root,
        "test",
        Corpus(doc_ids, [], []),
        {"q1": "what is a cell", "q2": "no such question"},
        {"q1": {"d0": 1, "d3": 2, "d1": 0}, "q2": {"d5": 1, "d8": 2}},
    )


@pytest.fixture
def dataset(tmp_path):
    """Of the collection that the records are of; a model wrote their last passage."""
    return make_dataset(tmp_path, [f"d{i}" for i in range(9)])


@pytest.fixture
def rows_read(monkeypatch):
    rows = []
    read = PassageSet.__getitem__
    monkeypatch.setattr(PassageSet, "__getitem__", lambda s, row: rows.append(row) or read(s, row))
    return rows


@pytest.mark.parametrize(
    ("doc_ids", "expected_rows"),
    [
        ([f"d{i}" for i in range(9)], {0, 3, 5, 8}),  # the judged ones alone
        (
            [f"d{i}" for i in range(8, -1, -1)],
            {0, 1, 2, 3, 4, 5},
        ),  # another order
        ([f"d{i}" for i in range(8)], {0, 1, 2, 3, 4, 5}),  # another collection
        ([f"e{i}" for i in range(9)], {0, 1, 2, 3, 4, 5}),
    ],
)
def test_counts(source, tmp_path, rows_read, doc_ids, expected_rows):
    dataset = make_dataset(tmp_path, doc_ids)
    found = find_leakage(source, dataset, 1)
    assert vars(found) == COUNTS
    assert "1 of 3 training lists" in found.text
    assert set(rows_read) == expected_rows
    assert vars(find_leakage(source, dataset, 2)) == STRICT


def test_it_is_told_and_kept(source, dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    harmless = dataclasses.replace(dataset, queries={"q1": "something else", "q2": "other"})
    report_leakage(tmp_path, {"": source, "b": source}, {"": dataset, "b": harmless}, 1)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("WARNING", find_leakage(source, dataset, 1).text),
        ("INFO", f"b: {find_leakage(source, harmless, 1).text}"),
    ]
    stored = json.loads((tmp_path / "leakage.json").read_text())
    assert {k: v for k, v in stored[""].items() if k != "fingerprint"} == COUNTS
    assert vars(read_leakage(tmp_path)[""]) == COUNTS
    assert read_leakage(tmp_path / "other") == {}


def test_what_is_known_is_not_counted_again(source, dataset, tmp_path, caplog, rows_read):
    caplog.set_level(logging.INFO)

    def report(source=source, dataset=dataset, level=1):
        rows_read.clear()
        report_leakage(tmp_path, {"": source}, {"": dataset}, level)
        return len(rows_read) > 0

    assert report()
    assert not report()
    assert len({record.getMessage() for record in caplog.records}) == 1
    assert len(caplog.records) == 2  # it is told each time
    assert report(level=2)
    assert vars(read_leakage(tmp_path)[""]) == STRICT
    prints = {"passages": "p", "lists": "other"}
    manifest = dataclasses.replace(source.manifest, fingerprints=prints)
    for changed in (
        {"dataset": dataclasses.replace(dataset, queries=dataset.queries | {"q1": "x"})},
        {"dataset": dataclasses.replace(dataset, qrels=dataset.qrels | {"q2": {"d8": 1}})},
        {"source": dataclasses.replace(source, manifest=manifest)},
    ):
        assert report()
        assert not report()
        assert report(**changed)
    # A file of an older ldx, which says nothing of what it counted.
    (tmp_path / "leakage.json").write_text(json.dumps({"": STRICT}))
    assert vars(read_leakage(tmp_path)[""]) == STRICT
    assert report()
    assert vars(read_leakage(tmp_path)[""]) == COUNTS
