"""Tests of data_prep/lists/calibration.py, against the formulas and scipy."""

import numpy as np
import pytest
import scipy.stats

from data_prep.lists.calibration import (
    METHODS,
    Percentile,
    ZScore,
    agreement,
    fuse_scores,
    normalized_entropy,
    order_scores,
)
from data_prep.pipeline.settings import CalibrationMethod


@pytest.fixture
def scores():
    values = 3 * np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32) - 5
    values[3, 5:] = np.nan
    return values


def test_percentile_is_the_recipes_formula(scores):
    p1, p99 = np.nanpercentile(scores, [1, 99])
    expected = np.clip((scores - p1) / (p99 - p1), 0, 1)
    np.testing.assert_allclose(Percentile.fit(scores)(scores), expected, atol=1e-6)
    assert Percentile.fit(np.ones(5))(np.ones(3)).tolist() == [0.5] * 3


def test_z_score_puts_three_deviations_on_the_ends(scores):
    z = (scores - np.nanmean(scores)) / np.nanstd(scores)
    expected = np.clip(z / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(ZScore.fit(scores)(scores), expected, atol=1e-6)


def test_rank_is_scipys(scores):
    calibrated = METHODS["rank"].fit(scores)(scores)
    for row, expected in zip(calibrated[4:], scores[4:], strict=True):
        np.testing.assert_allclose(row, (scipy.stats.rankdata(expected) - 1) / 7, atol=1e-6)
    assert sorted(calibrated[3, :5].tolist()) == [0, 0.25, 0.5, 0.75, 1]
    one = np.array([[2.0, np.nan]])
    np.testing.assert_array_equal(METHODS["rank"].fit(one)(one), [[0.5, np.nan]])


def test_every_method_of_the_config_has_a_calibration():
    assert list(METHODS) == list(CalibrationMethod)


def test_none_leaves_scores_as_they_are(scores):
    calibration = METHODS["none"].fit(scores)
    np.testing.assert_array_equal(calibration(scores), scores)
    assert (calibration.slope, calibration.facts()) == (1.0, {})


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_every_method(name, scores):
    """Scores lie in [0, 1] in the teacher's order, NaN stays NaN, and no scale or shift matters."""
    calibrated = METHODS[name].fit(scores)(scores)
    assert calibrated.dtype == np.float32
    assert (np.isnan(calibrated) == np.isnan(scores)).all()
    known = calibrated[~np.isnan(calibrated)]
    assert known.min() >= 0
    assert known.max() <= 1
    order = np.argsort(scores[0])
    assert (np.diff(calibrated[0, order]) >= 0).all()
    other = 7 * scores + 3
    np.testing.assert_allclose(METHODS[name].fit(other)(other), calibrated, atol=1e-5)


@pytest.mark.parametrize("name", ["percentile", "z_score"])
def test_the_slope_is_that_between_the_ends(name, scores):
    fitted = METHODS[name].fit(scores)
    remade = METHODS[name](**fitted.facts())
    low, high = fitted(np.array([[-6.0, -4.0]]))[0]
    assert remade.slope == pytest.approx((high - low) / 2, rel=1e-5)
    assert METHODS[name].fit(np.ones(5)).slope == 0
    assert METHODS["rank"].fit(scores).slope is None


def test_fusion_is_the_weighted_mean(scores):
    other = scores[::-1]
    fused = fuse_scores([scores, other], [3, 1])
    np.testing.assert_allclose(fused, (3 * scores + other) / 4, atol=1e-6)
    assert np.isnan(fused[3, 6])
    assert order_scores([scores], [2.0]) is scores
    both = order_scores([scores, 10 * scores + 4], [1, 1])
    np.testing.assert_array_equal(np.argsort(both[0]), np.argsort(scores[0]))


def test_agreement_is_kendalls_tau(scores):
    other = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    value = agreement(scores[4:], other[4:])
    pairs = list(zip(scores[4:], other[4:], strict=True))
    assert value.tau == pytest.approx(
        np.mean([scipy.stats.kendalltau(a, b).statistic for a, b in pairs])
    )
    assert value.top_1 == pytest.approx(np.mean([a.argmax() == b.argmax() for a, b in pairs]))
    same = agreement(scores, scores)
    assert (same.tau, same.top_1) == (pytest.approx(1), 1)


def test_entropy_is_scipys_by_that_of_the_flat_distribution(scores):
    entropies = normalized_entropy(scores, 0.3)
    for row, value in zip(scores, entropies, strict=True):
        known = row[~np.isnan(row)].astype(np.float64)
        p = np.exp((known - known.max()) / 0.3)
        assert value == pytest.approx(scipy.stats.entropy(p / p.sum()) / np.log(len(known)))
    assert normalized_entropy(np.zeros((1, 4)), 1.0) == pytest.approx([1])
    assert np.isnan(normalized_entropy(np.array([[1.0, np.nan]]), 1.0)).all()
