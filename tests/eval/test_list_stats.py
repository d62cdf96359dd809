"""Numbers of lists against scipy's and the loss."""

import numpy as np
import pytest
import scipy.stats

from ldx.eval import list_stats
from ldx.eval.metrics import score_run
from ldx.losses import listwise_kl


@pytest.fixture
def lists():
    rng = np.random.default_rng(0)
    student = rng.normal(size=(40, 7)).astype(np.float32)
    teacher = rng.integers(5, size=(40, 7)).astype(np.float32) / 5  # with ties
    sizes = rng.integers(0, 8, size=40)
    sizes[:3] = 0, 1, 7
    teacher[5] = 0.4  # all tied
    where = np.arange(7) < sizes[:, None]
    student[~where] = np.nan
    return student, teacher, where


def test_kendall_tau_is_scipys(lists, monkeypatch):
    student, teacher, where = lists
    expected = [
        scipy.stats.kendalltau(s[w], t[w]).statistic if w.sum() > 1 else np.nan
        for s, t, w in zip(student, teacher, where, strict=True)
    ]
    got = list_stats.kendall_tau(student, teacher, where)
    np.testing.assert_array_equal(got, expected)  # to the last digit
    assert np.isnan(got[[0, 1, 5]]).all()
    monkeypatch.setattr(list_stats, "PAIRS_AT_ONCE", 3 * 49)  # in parts
    np.testing.assert_array_equal(list_stats.kendall_tau(student, teacher, where), got)


def test_divergence_is_the_loss(lists):
    student, teacher, where = lists
    temperatures = {"student_temperature": 0.7, "teacher_temperature": 0.3}
    expected = listwise_kl(student, teacher, where=where, reduce_fn=None, **temperatures)
    got = list_stats.divergence(student, teacher, where, **temperatures)
    has = where.any(axis=1)
    np.testing.assert_allclose(got[has], np.asarray(expected)[has], rtol=1e-4, atol=1e-6)
    assert np.isnan(got[~has]).all()


def test_entropy_is_scipys_by_that_of_the_flat_list(lists):
    _, teacher, where = lists
    got = list_stats.entropy(teacher, where, 0.3)
    for scores, here, value in zip(teacher, where, got, strict=True):
        if here.sum() < 2:
            assert np.isnan(value)
        else:
            weights = np.exp(scores[here].astype(float) / 0.3)
            assert value == pytest.approx(scipy.stats.entropy(weights, base=here.sum()))
    assert got[5] == pytest.approx(1.0) or where[5].sum() < 2
    sharp = list_stats.entropy(np.array([[5.0, 0.0]]), np.ones((1, 2), bool), 0.01)
    np.testing.assert_allclose(sharp, 0.0, atol=1e-9)


def test_same_best_looks_at_real_entries_alone():
    first = np.array([[1.0, 2.0, 9.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    second = np.array([[0.0, 1.0, -9.0], [1.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    where = np.array([[True, True, False], [True, True, True], [False, False, False]])
    got = list_stats.same_best(first, second, where)
    np.testing.assert_array_equal(got, [1.0, 0.0, np.nan])


def test_ndcg_against_the_teachers_best_is_trec_evals(lists):
    student, teacher, where = lists
    student = np.round(student, 0)  # with ties
    # Long lists, of which the teacher's best are a part; the first is in the teacher's order.
    rng = np.random.default_rng(1)
    long = rng.normal(size=(2, 12, 25))
    long[0, 0] = long[1, 0]
    for pair in ((student, teacher, where), (*long.astype("f"), np.ones((12, 25), bool))):
        qrels, run = {}, {}
        for i, (scores, targets, here) in enumerate(zip(*pair, strict=True)):
            entries = np.flatnonzero(here)
            best = entries[np.argsort(-targets[here], kind="stable")][:10]
            # Equal scores are in the descending order of names, so the later entry is the first.
            qrels[str(i)] = {f"{entry:02}": 10 - place for place, entry in enumerate(best)}
            run[str(i)] = {f"{entry:02}": float(scores[entry]) for entry in entries}
        values = score_run(qrels, run, metrics=("nDCG@10",)).per_query["nDCG@10"]
        expected = [values[str(i)] if h.sum() > 1 else np.nan for i, h in enumerate(pair[2])]
        got = list_stats.ndcg_against_best(*pair)
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        assert len(set(got.round(6))) > 8
    assert got[0] == 1.0


def test_ndcg_against_the_teachers_best_by_hand():
    """Grades 10, 9, 8: the student's order is the third, the first, the second."""
    where = np.array([[True, True, True, False]])
    student, teacher = np.array([[0.5, 0.1, 0.9, 7.0]]), np.array([[3.0, 2.0, 1.0, 9.0]])
    discounts = 1 / np.log2([2, 3, 4])
    expected = (discounts @ [8, 10, 9]) / (discounts @ [10, 9, 8])
    np.testing.assert_allclose(list_stats.ndcg_against_best(student, teacher, where), [expected])
