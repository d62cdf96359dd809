"""Tests of data_prep/generate_queries.py."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_prep.generate_queries import (
    Query,
    TestQueries,
    clean,
    extract_queries,
    human_queries,
)
from ldx.errors import UserError
from ldx.eval.beir import Corpus, Dataset


def query(text, query_type="sentence", query_id="q"):
    return Query(query_id, query_type, text, 0, "", {})


def test_clean_drops_and_counts():
    dropped: Counter[str] = Counter()
    kept = clean(
        [
            query("solve a linear system"),
            query("Solve a linear, system!", "title"),
            query(""),
            query("sorting"),
            query("please Compute the matrix  exponential now"),
            query("linear algebra of things"),
        ],
        TestQueries(["Compute the matrix exponential.", "linear algebra"]),
        dropped,
    )
    assert [q.text for q in kept] == ["solve a linear system", "linear algebra of things"]
    assert dropped == {
        "equal to another": 1,
        "nothing to extract": 1,
        "too short": 1,
        "holds a test query": 1,
    }


def test_human_queries_may_be_short_but_never_test_queries():
    dropped: Counter[str] = Counter()
    kept = clean(
        [query("deafness", "human"), query("acne", "human")], TestQueries(["Acne"]), dropped
    )
    assert [q.text for q in kept] == ["deafness"]


def test_human_queries_keep_their_grades():
    corpus = Corpus(["a", "b", "c"], [""] * 3, ["x", "y", "z"])
    qrels = {"1": {"a": 2, "b": 1, "c": 0}, "2": {"c": 1}, "3": {"absent": 1}}
    dataset = Dataset(Path(), "train", corpus, {"1": "one", "2": "two", "3": "three"}, qrels)
    dropped: Counter[str] = Counter()
    # c is held out
    queries = list(human_queries(dataset, {"a": 0, "b": 1}, dropped))
    assert [(q.query_id, q.row, q.relevant) for q in queries] == [("1", -1, {0: 2, 1: 1})]
    assert dropped == {"no relevant passage": 2}


def test_queries_depend_on_no_order():
    ids = ["a", "b"]
    texts = ["The banded matrix is solved fast. It is sparse and large.", "Sort an array by value."]
    options: dict[str, Any] = {"query_types": ("title", "keywords"), "seed": 0}
    forward = {q.query_id: q.text for q in extract_queries(ids, texts, [0, 1], **options)}
    backward = {
        q.query_id: q.text for q in extract_queries(ids[::-1], texts[::-1], [0, 1], **options)
    }
    assert forward == backward
    assert set(forward) == {"a:title", "a:keywords", "b:title", "b:keywords"}


def test_an_unknown_type_is_named():
    with pytest.raises(UserError, match=r"\['poem'\]; known are"):
        list(extract_queries(["a"], ["text"], [0], query_types=("poem",), seed=0))
