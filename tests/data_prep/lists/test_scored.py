"""Tests of data_prep/lists/scored.py: the entries of lists."""

import numpy as np
import pytest

from data_prep.lists.scored import choose_entries, own_columns

NAN = np.nan


def list_columns(scores, grades, size, judged):
    """The columns of one query's list, however short it is."""
    entries = choose_entries(scores[None], grades[None], size, judged=judged, least_entries=1)
    return entries.columns[0] if len(entries.places) else np.zeros(0, int)


def slow_columns(scores, grades, size, judged):
    """The columns of one query's list, entry by entry."""
    order = [c for c in np.argsort(-scores, kind="stable") if np.isfinite(scores[c])]
    if not any(grades[c] > 0 for c in order):
        return []
    positive = min(order, key=lambda c: (-grades[c], -scores[c]))
    others = [c for c in order if c != positive]
    if not judged:
        return [positive, *others[: size - 1]]
    num_relevant = sum(grades[c] > 0 for c in others)
    unjudged = [c for c in others if grades[c] == 0][: max(size - 1 - num_relevant, size // 2)]
    return [positive, *(c for c in others if grades[c] > 0 or c in unjudged)]


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("size", [2, 5, 30])
def test_all_lists_at_once_are_those_of_one_query_after_another(judged, size, monkeypatch):
    rng = np.random.default_rng(size)
    scores = rng.integers(0, 8, (50, 20)).astype(np.float32)  # many are equal
    scores[rng.random(scores.shape) < 0.3] = NAN
    grades = rng.integers(0, 3, scores.shape) * (rng.random(scores.shape) < 0.2)
    expected = [slow_columns(s, g, size, judged) for s, g in zip(scores, grades, strict=True)]
    monkeypatch.setattr("data_prep.lists.scored.SCORES_AT_ONCE", 140)  # seven queries
    for least in (1, min(size, 8)):
        entries = choose_entries(scores, grades, size, judged=judged, least_entries=least)
        assert entries.places.tolist() == [i for i, e in enumerate(expected) if len(e) >= least]
        for place, columns in zip(entries.places, entries.columns, strict=True):
            assert columns[columns >= 0].tolist() == expected[place]
    assert entries.yields["a positive with a score"] == sum(map(bool, expected))


def test_without_a_size_all_that_is_scored_stays():
    scores = np.array([[1, NAN, 3, 2]], np.float32)
    assert list_columns(scores[0], np.array([1, 0, 0, 0]), None, judged=False).tolist() == [0, 2, 3]


def test_a_made_query_has_its_own_passage_first():
    scores = np.array([1, 5, 4, NAN, 3], np.float32)
    columns = list_columns(scores, np.array([1, 0, 0, 0, 0]), 3, judged=False)
    assert columns.tolist() == [0, 1, 2]
    assert list_columns(np.full(3, NAN), np.zeros(3, int), 3, judged=False).tolist() == []


def test_a_judged_query_has_the_highest_grade_first_then_the_teachers_order():
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2], np.float32)
    grades = np.array([1, 1, 2, 0, 0, 2, 1, 0])
    # Column 2 is the best of grade 2. All relevant ones are there, and others, half of `size`.
    assert list_columns(scores, grades, 4, judged=True).tolist() == [2, 0, 1, 3, 4, 5, 6]
    assert list_columns(scores, grades, 8, judged=True).tolist() == [2, 0, 1, 3, 4, 5, 6, 7]
    few = np.array([0, 0, 0, 1, 0, 0, 0, 0])
    assert list_columns(scores, few, 4, judged=True).tolist() == [3, 0, 1, 2]


def test_no_list_begins_with_a_passage_that_nobody_judged_relevant():
    scores, grades = np.array([NAN, 3, 2, 1]), np.array([2, 0, 0, 0])
    for judged in (True, False):
        assert len(list_columns(scores, grades, 3, judged=judged)) == 0


def test_own_columns_of_queries_that_people_wrote_are_none():
    rows = np.array([[3, 1, -1], [4, -1, -1]])
    assert own_columns(rows, np.array([1, -1])).tolist() == [[False, True, False], [False] * 3]


def test_only_full_lists_stay():
    scores = np.array([[5, 4, 3], [5, 4, NAN], [NAN, 4, 3], [1, 2, 3]], np.float32)
    grades = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    entries = choose_entries(scores, grades, 3, judged=False)
    assert entries.places.tolist() == [0, 3]
    assert entries.columns.tolist() == [[0, 1, 2], [0, 2, 1]]
    assert entries.yields == {"a positive with a score": 3, "full list of what is left": 2}
    assert entries.take(scores, NAN).tolist() == [[5, 4, 3], [1, 3, 2]]
    assert len(choose_entries(scores, grades, 4, judged=False).places) == 0


def test_a_longer_list_of_a_judged_query_pads_the_others():
    scores = np.array([[9, 8, 7, 6], [9, 8, 7, 6]], np.float32)
    grades = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    entries = choose_entries(scores, grades, 2, judged=True)
    assert entries.columns.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    np.testing.assert_array_equal(entries.take(scores, NAN)[1], [9, 8, NAN, NAN])
