"""Tests of data_prep/lists/scored.py: the entries of lists."""

import numpy as np

from data_prep.lists.scored import choose_entries, list_columns, own_columns

NAN = np.nan


def test_a_made_query_has_its_own_passage_first():
    scores = np.array([1, 5, 4, NAN, 3], np.float32)
    columns = list_columns(scores, np.array([1, 0, 0, 0, 0]), 3, human=False)
    assert columns.tolist() == [0, 1, 2]
    assert list_columns(np.full(3, NAN), np.zeros(3, int), 3, human=False).tolist() == []


def test_a_human_query_has_the_highest_grade_first_then_the_teachers_order():
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2], np.float32)
    grades = np.array([1, 1, 2, 0, 0, 2, 1, 0])
    # Column 2 is the best of grade 2. All relevant ones are there, and others, half of `size`.
    assert list_columns(scores, grades, 4, human=True).tolist() == [2, 0, 1, 3, 4, 5, 6]
    assert list_columns(scores, grades, 8, human=True).tolist() == [2, 0, 1, 3, 4, 5, 6, 7]
    few = np.array([0, 0, 0, 1, 0, 0, 0, 0])
    assert list_columns(scores, few, 4, human=True).tolist() == [3, 0, 1, 2]


def test_no_list_begins_with_a_passage_that_nobody_judged_relevant():
    scores, grades = np.array([NAN, 3, 2, 1]), np.array([2, 0, 0, 0])
    for human in (True, False):
        assert len(list_columns(scores, grades, 3, human=human)) == 0


def test_own_columns_of_human_queries_are_none():
    rows = np.array([[3, 1, -1], [4, -1, -1]])
    assert own_columns(rows, np.array([1, -1])).tolist() == [[False, True, False], [False] * 3]


def test_only_full_lists_stay():
    scores = np.array([[5, 4, 3], [5, 4, NAN], [NAN, 4, 3], [1, 2, 3]], np.float32)
    grades = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    entries = choose_entries(scores, grades, 3, human=False)
    assert entries.places.tolist() == [0, 3]
    assert entries.columns.tolist() == [[0, 1, 2], [0, 2, 1]]
    assert entries.yields == {"a positive with a score": 3, "full list of what is left": 2}
    assert entries.take(scores, NAN).tolist() == [[5, 4, 3], [1, 3, 2]]
    assert len(choose_entries(scores, grades, 4, human=False).places) == 0


def test_a_longer_list_of_a_human_query_pads_the_others():
    scores = np.array([[9, 8, 7, 6], [9, 8, 7, 6]], np.float32)
    grades = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    entries = choose_entries(scores, grades, 2, human=True)
    assert entries.columns.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    np.testing.assert_array_equal(entries.take(scores, NAN)[1], [9, 8, NAN, NAN])
