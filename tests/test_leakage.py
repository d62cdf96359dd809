"""What training lists share with the test, counted by hand."""

import numpy as np

from ldx.data.lists import ListTable
from ldx.data.records import write_lists, write_passages
from ldx.data.schema import ListRecord, Passage
from ldx.data.sources import Source, SourceConfig
from ldx.eval.beir import Corpus, Dataset
from ldx.leakage import find_leakage


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


def test_counts(tmp_path):
    write_passages(tmp_path, [Passage(f"d{i}", "", f"text {i}") for i in range(6)])
    lists = [
        make_list(0, "What is, a cell?", [0, 1, 2]),  # the words of q1, whose d0 and d3 are judged
        make_list(1, "another question", [3, 4]),
        make_list(2, "a third", [4, 5]),
    ]
    write_lists(tmp_path, {"train": lists, "dev": [make_list(3, "dev", [0])]})
    queries: dict[str, int] = {}
    table = ListTable.read(lists, queries)
    source = Source(
        "c", SourceConfig(str(tmp_path)), None, table, table, table, list(queries), None, None
    )
    dataset = Dataset(
        tmp_path,
        "test",
        Corpus([], [], []),
        {"q1": "what is a cell", "q2": "no such question"},
        {"q1": {"d0": 1, "d3": 2, "d1": 0}, "q2": {"d5": 1, "gone": 1}},
    )
    found = find_leakage(source, dataset)
    assert vars(found) == {
        "num_lists": 3,
        "num_queries": 2,
        "lists_with_test_query": 1,
        "judgments_in_lists": 1,  # of q1, only d0 is in the list of its words; d1 is not relevant
        "judged_passages": 4,
        "judged_in_lists": 3,
        "judged_as_positives": 2,
    }
    assert "1 of 3 training lists" in found.text
