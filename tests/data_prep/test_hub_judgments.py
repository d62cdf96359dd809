"""Tests of data_prep/hub_judgments.py; a stub stands for the library `datasets`."""

import sys
import types

from data_prep.hub_judgments import fetch_judgments

QUERIES = [
    {"_id": "1", "title": "", "text": "what is a bond?"},
    {"_id": 2, "title": "", "text": "x"},
]
QRELS = {"test": [{"query-id": 1, "corpus-id": 7, "score": 1}], "dev": []}


def stub(monkeypatch, qrels):
    def load_dataset(name, config=None, *, split, revision=None):
        if name == "BeIR/fiqa":
            assert (config, split, revision) == ("queries", "queries", "abc")
            return QUERIES
        assert name == "BeIR/fiqa-qrels"
        return qrels[split]

    def get_dataset_split_names(name):
        if not qrels:
            raise ConnectionError("the hub has no such dataset")
        return list(qrels)

    module = types.ModuleType("datasets")
    monkeypatch.setattr(module, "load_dataset", load_dataset, raising=False)
    monkeypatch.setattr(module, "get_dataset_split_names", get_dataset_split_names, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_queries_and_qrels_come_from_two_repositories(monkeypatch):
    stub(monkeypatch, QRELS)
    queries, qrels = fetch_judgments("BeIR/fiqa", "abc")
    assert queries == {"1": "what is a bond?", "2": "x"}
    assert qrels == {"test": {"1": {"7": 1}}}  # dev has none


def test_a_corpus_without_judgments_is_only_told(monkeypatch, caplog):
    stub(monkeypatch, {})
    assert fetch_judgments("BeIR/fiqa", "abc") == ({}, {})
    assert "no queries and judgments" in caplog.text
