"""Tests of data_prep/lists/scored.py: the entries of lists."""

import numpy as np
import pytest

from data_prep.lists.scored import choose_entries, own_columns
from data_prep.pipeline.settings import ListSampling

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


def test_stratified_entries_cover_all_scores():
    rng = np.random.default_rng(3)
    scores = -np.sort(-rng.exponential(1, (20, 300)), axis=1).astype(np.float32)  # few are high
    scores[:, 250:] = NAN
    grades = np.zeros(scores.shape, int)
    grades[:, 0] = 1
    grades[5, [0, 40]] = [0, 1]
    top = choose_entries(scores, grades, 20, judged=False)
    entries = choose_entries(scores, grades, 20, judged=False, sampling=ListSampling.STRATIFIED)
    assert entries.columns.shape == top.columns.shape == (20, 20)
    for row, columns, of_query in zip(range(20), entries.columns, scores, strict=True):
        assert columns[0] == (40 if row == 5 else 0)
        assert len(set(columns.tolist())) == 20
        others = of_query[columns[1:]]
        assert (np.diff(others) <= 0).all()
        rest = np.delete(of_query[:250], columns[0])
        assert others[0] == rest[0]
        assert others[-1] == rest[-1]
        steps = np.linspace(rest[0], rest[-1], 19)
        worst = np.diff(-rest).max()  # no candidate may lie between two steps
        assert np.abs(others - steps).max() <= worst
    spread = entries.take(scores, NAN).std(axis=1)
    assert (spread > top.take(scores, NAN).std(axis=1)).all()


def test_stratified_entries_are_distinct_where_scores_are_equal():
    scores = np.array([[5, 5, 5, 5, 1, 1]], np.float32)
    grades = np.array([[1, 0, 0, 0, 0, 0]])
    for size in (2, 3, 4, 5, 6):
        entries = choose_entries(scores, grades, size, judged=False, sampling="stratified")
        columns = entries.columns[0].tolist()
        assert len(set(columns)) == size
        assert columns[0] == 0
    assert choose_entries(
        scores, grades, 9, judged=False, sampling="stratified", least_entries=2
    ).columns.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_stratified_lists_of_judged_queries_keep_all_that_is_relevant():
    scores = np.arange(40, 0, -1, dtype=np.float32)[None]
    grades = np.zeros((1, 40), int)
    grades[0, [3, 4, 5]] = 1
    columns = choose_entries(scores, grades, 10, judged=True, sampling="stratified").columns[0]
    assert columns[0] == 3
    assert {3, 4, 5, 0, 39} <= set(columns.tolist())
    assert len(columns) == 10
