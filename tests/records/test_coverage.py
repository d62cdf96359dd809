"""Tests of ldx/records/coverage.py: how many passages training lists touch."""

import dataclasses

import numpy as np
import pytest

from ldx.records.coverage import Coverage


def test_passages_are_counted_by_the_place_in_which_they_stand():
    may_hold = np.ones(40, bool)
    may_hold[30:] = False
    lists = [np.arange(3, 15), np.array([3, 0, 41]), np.array([3, 35])]  # 41: a written passage
    coverage = Coverage.of_lists(iter(lists), may_hold)
    assert coverage == Coverage(lists=3, passages=30, first=1, first_10=11, anywhere=13)
    assert coverage.sentence() == (
        "3 training queries put 37% of the 30 passages among the first 10 of some list, 3% first, "
        "and 43% anywhere"
    )


@pytest.mark.parametrize(
    ("lists", "first_10", "told"),
    [
        (500, 25, []),
        (499, 25, ["few training queries (under 500)"]),
        (5000, 24, ["touch few passages (under 25%"]),
        (10_000, 24, []),
        (3, 0, ["few training queries", "touch few passages"]),
    ],
)
def test_what_is_too_little_is_told(lists, first_10, told):
    advice = Coverage(lists, 100, 1, first_10, 100).advice()
    assert bool(advice) == bool(told)
    assert all(words in advice for words in told)


def test_yields_without_coverage_have_none():
    coverage = Coverage(3, 30, 1, 11, 13)
    values = dataclasses.asdict(coverage)
    assert Coverage.from_yields({"write_tfrecords": {"coverage": values}}) == coverage
    for bad in ({}, {"lists": 3}, values | {"lists": "3"}, values | {"more": 1}, 3, None):
        assert Coverage.from_yields({"write_tfrecords": {"coverage": bad}}) is None
    assert Coverage.from_yields({}) is Coverage.from_yields({"write_tfrecords": 3}) is None
