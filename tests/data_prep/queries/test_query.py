"""Tests of data_prep/queries/query.py."""

from data_prep.queries.query import Query


def test_judged_grades_of_a_query():
    human = Query("q", "human", "text", -1, "", {4: 2}, "d4", irrelevant=[5])
    assert human.judged == {4: 2, 5: 0}
    assert Query("q", "title", "text", 7, "", {}, "d7").judged == {7: 1}
