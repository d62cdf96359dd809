"""Tests of data_prep/lists/filters.py."""

import numpy as np
import pytest

from data_prep.lists.filters import Denoising, Filters, apply_filters, positive_columns

ALL_ON = Filters(3, 20, True, 25.0)
NAN = np.nan


def filtered(filters, own_passage=True):
    """Five queries: good, own not found, own second, too few candidates, low top score."""
    scores = np.array(
        [[9, 5, 4, 3], [9, 5, 4, 3], [5, 9, 4, 3], [9, 5, NAN, NAN], [1, 0, -1, -2]], np.float32
    )
    fused_rank = np.array([[1, 2, 3, 4], [0, 1, 2, 3], *[[1, 2, 3, 4]] * 3])
    is_own = np.zeros((5, 4), bool)
    is_own[:, 0] = True
    return apply_filters(scores, fused_rank, is_own, filters, own_passage=own_passage)


def test_filters_and_their_yields():
    result = filtered(ALL_ON)
    assert result.keep.tolist() == [True, False, False, False, True]
    assert result.yields == {
        "queries": 5,
        "own passage found": 4,
        "own passage first": 3,
        "full list": 2,
        "top score": 2,
    }
    assert filtered(Filters(3, 20, True, 80.0)).keep.tolist() == [True, False, False, False, False]


def test_every_filter_can_be_off():
    assert filtered(Filters(1, None, False, None)).keep.tolist() == [True] * 5
    assert filtered(Filters(1, 0, False, 0.0)).keep.tolist() == [True] * 5
    assert filtered(Filters(1, None, True, None)).keep.tolist() == [True, True, False, True, True]


def test_queries_that_people_wrote_have_no_own_passage():
    assert filtered(Filters(3, 20, True, None), own_passage=False).keep.tolist() == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_an_own_passage_without_a_score_is_not_first():
    scores, own = np.array([[NAN, 1.0, 2.0], [NAN, NAN, NAN]]), np.array([[True, False, False]] * 2)
    filters = Filters(0, None, True, None)
    result = apply_filters(scores, np.ones((2, 3)), own, filters, own_passage=True)
    assert result.keep.tolist() == [False, False]


@pytest.mark.parametrize("positive", [0.8, -0.8, 0.0])
def test_margins_hold_for_positives_of_either_sign(positive):
    """The limit, positive − margin · |positive|, is always below the positive."""
    scores = np.array([[positive, positive - 0.01, positive - 0.5]])
    removed = Denoising(relative_margin=0.05).removes(scores, np.array([positive]))
    limit = positive - 0.05 * abs(positive)
    assert (removed["relative_margin"] == (scores > limit)).all()
    assert not removed["relative_margin"][0, 2]
    assert removed["relative_margin"][0, 1] == (positive != 0)
    absolute = Denoising(absolute_margin=0.2).removes(scores, np.array([positive]))
    assert absolute["absolute_margin"].tolist() == [[True, True, False]]


def test_a_relevant_passage_is_no_false_negative():
    scores = np.array([[0.5, 0.9, 0.45, 0.1]], np.float32)
    grades = np.array([[1, 0, 1, 0]])
    denoised = Denoising(absolute_margin=0.2, max_score=0.4).apply(scores, grades)
    np.testing.assert_array_equal(denoised.scores, np.array([[0.5, NAN, 0.45, 0.1]], np.float32))
    assert denoised.yields == {"entries over absolute_margin": 1, "entries over max_score": 1}
    assert Denoising().apply(scores, grades).scores.tolist() == scores.tolist()
    assert Denoising().apply(scores, grades).yields == {}


def test_the_positive_is_the_best_of_the_highest_grade():
    scores, grades = np.array([[9.0, 8.0, 7.0, NAN]]), np.array([[1, 2, 2, 3]])
    assert positive_columns(scores, grades).tolist() == [1]
