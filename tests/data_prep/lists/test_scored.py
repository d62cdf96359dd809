"""Tests of data_prep/lists/scored.py: filters, de-noising, and the entries of lists."""

import numpy as np
import pytest

from data_prep.lists.scored import (
    Denoising,
    Filters,
    apply_filters,
    list_columns,
    own_columns,
    positive_columns,
)
from data_prep.pipeline.draws import split_of

ALL_ON = Filters(3, 20, True, 25.0)
NAN = np.nan


def filtered(filters, human=False):
    """Five queries: good, own not found, own second, too few candidates, low top score."""
    scores = np.array(
        [[9, 5, 4, 3], [9, 5, 4, 3], [5, 9, 4, 3], [9, 5, NAN, NAN], [1, 0, -1, -2]], np.float32
    )
    fused_rank = np.array([[1, 2, 3, 4], [0, 1, 2, 3], *[[1, 2, 3, 4]] * 3])
    is_own = np.zeros((5, 4), bool)
    is_own[:, 0] = True
    keep, yields = apply_filters(scores, fused_rank, is_own, filters, human=human)
    return keep.tolist(), yields


def test_filters_and_their_yields():
    keep, yields = filtered(ALL_ON)
    assert keep == [True, False, False, False, True]
    assert yields == {
        "queries": 5,
        "own passage found": 4,
        "own passage first": 3,
        "full list": 2,
        "top score": 2,
    }
    assert filtered(Filters(3, 20, True, 80.0))[0] == [True, False, False, False, False]


def test_every_filter_can_be_off():
    assert filtered(Filters(1, None, False, None))[0] == [True] * 5
    assert filtered(Filters(1, 0, False, 0.0))[0] == [True] * 5
    assert filtered(Filters(1, None, True, None))[0] == [True, True, False, True, True]


def test_human_queries_have_no_own_passage():
    assert filtered(Filters(3, 20, True, None), human=True)[0] == [True, True, True, False, True]


def test_an_own_passage_without_a_score_is_not_first():
    scores, own = np.array([[NAN, 1.0, 2.0], [NAN, NAN, NAN]]), np.array([[True, False, False]] * 2)
    keep, _ = apply_filters(scores, np.ones((2, 3)), own, Filters(0, None, True, None), human=False)
    assert keep.tolist() == [False, False]


def test_a_made_query_has_its_own_passage_first():
    scores = np.array([1, 5, 4, NAN, 3], np.float32)
    columns = list_columns(scores, np.array([1, 0, 0, 0, 0]), 3, human=False)
    assert columns.tolist() == [0, 1, 2]
    assert list_columns(np.full(3, NAN), np.zeros(3, int), 3, human=False).tolist() == []


def test_a_human_query_has_the_highest_grade_first_then_the_teachers_order():
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2], np.float32)
    grades = np.array([1, 1, 2, 0, 0, 2, 1, 0])
    # Column 2 is the best of grade 2. All relevant ones are there, and half as many others.
    assert list_columns(scores, grades, 4, human=True).tolist() == [2, 0, 1, 3, 4, 5, 6]
    assert list_columns(scores, grades, 8, human=True).tolist() == [2, 0, 1, 3, 4, 5, 6, 7]
    few = np.array([0, 0, 0, 1, 0, 0, 0, 0])
    assert list_columns(scores, few, 4, human=True).tolist() == [3, 0, 1, 2]
    assert positive_columns(scores[None], grades[None]).tolist() == [2]


def test_no_list_begins_with_a_passage_that_nobody_judged_relevant():
    scores, grades = np.array([NAN, 3, 2, 1]), np.array([2, 0, 0, 0])
    for human in (True, False):
        assert len(list_columns(scores, grades, 3, human=human)) == 0


def test_own_columns_of_human_queries_are_none():
    rows = np.array([[3, 1, -1], [4, -1, -1]])
    assert own_columns(rows, np.array([1, -1])).tolist() == [[False, True, False], [False] * 3]


@pytest.mark.parametrize("positive", [0.8, -0.8, 0.0])
def test_margins_hold_for_positives_of_either_sign(positive):
    """What may stay is always below the positive: positive − margin · |positive|."""
    scores = np.array([[positive, positive - 0.01, positive - 0.5]])
    removed = Denoising(relative_margin=0.05).removes(scores, np.array([positive]))
    limit = positive - 0.05 * abs(positive)
    assert (removed["relative_margin"] == (scores > limit)).all()
    assert not removed["relative_margin"][0, 2]
    assert removed["relative_margin"][0, 1] == (positive != 0)
    absolute = Denoising(absolute_margin=0.2).removes(scores, np.array([positive]))
    assert absolute["absolute_margin"].tolist() == [[True, True, False]]


def test_a_split_is_by_name_and_near_its_fraction():
    names = [f"doc{i}" for i in range(2000)]
    dev = [name for name in names if split_of(0.1, 0, name) == "dev"]
    assert 150 < len(dev) < 250
    assert dev == [name for name in reversed(names) if split_of(0.1, 0, name) == "dev"][::-1]
    # A larger fraction keeps who is in dev.
    assert set(dev) < {name for name in names if split_of(0.2, 0, name) == "dev"}
