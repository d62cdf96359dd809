"""Tests of data_prep/calibrate.py and of the lists of data_prep/write_lists.py."""

import numpy as np
import pytest

from data_prep.calibrate import Filters, Scale, apply_filters, list_columns, own_columns
from data_prep.candidates import Candidates
from data_prep.choice import split_of
from data_prep.generate_queries import Query
from data_prep.write_lists import make_lists

ALL_ON = Filters(3, 20, True, 25.0)
INF = np.inf


def test_scale_is_the_percentile_formula():
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    p1, p99 = np.percentile(scores, [1, 99])
    wanted = np.clip((scores - p1) / (p99 - p1), 0, 1)
    np.testing.assert_allclose(Scale.fit(scores)(scores), wanted, atol=1e-6)
    assert Scale.fit(np.ones(5))(np.ones(3)).tolist() == [0.5] * 3


def filtered(filters, human=False):
    """Five queries: good, own not found, own second, too few candidates, low top score."""
    scores = np.array(
        [[9, 5, 4, 3], [9, 5, 4, 3], [5, 9, 4, 3], [9, 5, -INF, -INF], [1, 0, -1, -2]], np.float32
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


def test_a_made_query_has_its_own_passage_first():
    scores = np.array([1, 5, 4, -INF, 3], np.float32)
    columns = list_columns(scores, np.array([1, 0, 0, 0, 0]), 3, human=False)
    assert columns.tolist() == [0, 1, 2]


def test_a_human_query_has_the_highest_grade_first_then_the_teachers_order():
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2], np.float32)
    grades = np.array([1, 1, 2, 0, 0, 2, 1, 0])
    # Column 2 is the best of grade 2; one other relevant passage has room beside it, the rest
    # of them is left out, and is no negative either.
    assert list_columns(scores, grades, 4, human=True).tolist() == [2, 0, 3, 4]
    assert list_columns(scores, grades, 6, human=True).tolist() == [2, 0, 1, 3, 4, 7]
    assert list_columns(scores, grades, 1, human=True).tolist() == [2]


def test_own_columns_of_human_queries_are_none():
    rows = np.array([[3, 1, -1], [4, -1, -1]])
    assert own_columns(rows, [1, -1]).tolist() == [[False, True, False], [False] * 3]


@pytest.fixture
def mined():
    num, width = 30, 10
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(40)[:width] for _ in range(num)]).astype(np.int32)
    scores = -np.sort(-rng.normal(size=(num, width)).astype(np.float32), axis=1)
    queries = [
        Query(f"q{i}", "title" if i % 2 else "keywords", f"query {i}", int(rows[i, 0]), "", {})
        for i in range(num - 1)
    ]
    last = {int(rows[-1, 3]): 2, int(rows[-1, 5]): 1}
    queries.append(Query("h", "human", "human query", -1, "", last))
    rank = np.tile(np.arange(1, width + 1), (num, 1))
    ones = np.ones((num, 4), np.float32)
    return queries, Candidates(rows, rank, scores, 2 * scores, ones), scores


def test_lists(mined):
    queries, candidates, scores = mined
    filters, order = Filters(4, 20, True, 0), np.random.default_rng(1).permutation(len(queries))
    records, yields, scales = make_lists(queries, candidates, scores, filters, "c", order)
    assert [r.query_id for r in records] == [q.query_id for q in queries]
    assert set(yields) == set(scales) == {"title", "keywords", "human"}
    for number, record in enumerate(records[:-1]):
        np.testing.assert_array_equal(record.rows, candidates.rows[number, :4])
        assert record.rows[0] == record.source_row
        assert record.order_key == order[number]
        assert record.labels.tolist() == [-1] * 4
        assert (np.diff(record.teacher_scores) <= 0).all()
        numbers = [i for i, q in enumerate(queries) if q.query_type == record.query_type]
        scale = Scale.fit(scores[numbers])
        np.testing.assert_array_equal(record.teacher_scores, scale(scores[number, :4]))
        np.testing.assert_array_equal(record.raw_scores[:4], candidates.dense[number, :4])
        np.testing.assert_array_equal(record.raw_scores[4:], candidates.bm25[number, :4])
    human = records[-1]
    assert human.rows.tolist() == candidates.rows[-1, [3, 0, 1, 5]].tolist()
    assert human.labels.tolist() == [2, -1, -1, 1]
    assert human.source_row == -1
    assert human.order_key == order[-1]


def test_a_split_is_by_name_and_near_its_fraction():
    names = [f"doc{i}" for i in range(2000)]
    dev = [name for name in names if split_of(0.1, 0, name) == "dev"]
    assert 150 < len(dev) < 250
    assert dev == [name for name in reversed(names) if split_of(0.1, 0, name) == "dev"][::-1]
    # A larger fraction keeps who is in dev.
    assert set(dev) < {name for name in names if split_of(0.2, 0, name) == "dev"}
