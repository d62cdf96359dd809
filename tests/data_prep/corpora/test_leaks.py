"""Tests of data_prep/corpora/leaks.py: texts that are nearly a test query."""

import pytest

from data_prep.corpora.leaks import TestQueries

QUERIES = TestQueries(["Which vitamins increase the risk of cancer?", "plant-based diet", "acne"])


@pytest.mark.parametrize(
    "text",
    [
        "which vitamins increase the risk of cancer",
        "the risk of cancer which vitamins increase",  # another order
        "Which vitamin increases the risk of cancer",  # other endings
        "which vitamins increse the risk of cancer",  # a slip
        "plant based diets",
        "acne acne",
    ],
)
def test_nearly_a_test_query(text):
    assert QUERIES.is_nearly(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?!",
        "which vitamins are in cabbage",
        "risk of cancer",
        "Mediterranean diet",
        "acute acne",
        "which vitamins increase the risk of cancer of the lung in people who smoke cigars",
    ],
)
def test_another_query(text):
    assert not QUERIES.is_nearly(text)


def test_without_test_queries_nothing_is_near():
    assert not TestQueries([]).is_nearly("acne")
