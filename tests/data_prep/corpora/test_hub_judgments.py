"""Tests of data_prep/corpora/hub_judgments.py; a stub stands for the library `datasets`."""

import sys
import types

import pytest

from data_prep.corpora.hub_judgments import fetch_judgments
from ldx.common.errors import UserError

QUERIES = [
    {"_id": "1", "title": "", "text": "what is a bond?"},
    {"_id": 2, "title": "", "text": "x"},
]
QRELS = {"test": [{"query-id": 1, "corpus-id": 7, "score": 1}], "dev": []}


class NotFoundError(Exception):
    """What `datasets` raises where the hub has no such dataset."""


def stub(monkeypatch, qrels):
    def load_dataset(name, config=None, *, split, revision=None):
        if name == "BeIR/fiqa":
            assert (config, split, revision) == ("queries", "queries", "abc")
            return QUERIES
        assert name == "BeIR/fiqa-qrels"
        return qrels[split]

    def get_dataset_split_names(name):
        if qrels is None:
            raise ConnectionError("no network")
        if not qrels:
            raise NotFoundError
        return list(qrels)

    module = types.ModuleType("datasets")
    exceptions = types.SimpleNamespace(DatasetNotFoundError=NotFoundError)
    monkeypatch.setattr(module, "exceptions", exceptions, raising=False)
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
    assert "the hub has no BeIR/fiqa-qrels" in caplog.text


def test_judgments_that_cannot_be_read_are_not_done_without(monkeypatch):
    stub(monkeypatch, None)
    with pytest.raises(UserError, match=r"could not be read .*no network"):
        fetch_judgments("BeIR/fiqa", "abc")
