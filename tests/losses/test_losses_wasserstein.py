"""The Wasserstein losses equal the reference's numbers and scipy's; what their targets are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ldx import losses
from ldx.losses import slot_scores, slot_where

slot_labels = jax.jit(losses.slot_labels)
list_wasserstein, wasserstein = (
    jax.jit(loss, static_argnames="temperature")
    for loss in (losses.list_wasserstein, losses.wasserstein)
)

LEVELS = np.array([3.0, 2.0, 1.0, 0.0])

# By lists of these levels in the batch, as the docstring of `wasserstein` has them: the mass that
# the published target gives to level 3, and the loss of a student that gives it .644.
PUBLISHED_MASS = {1: 0.644, 4: 0.465, 16: 0.220, 64: 0.071}
PUBLISHED_LOSS = {1: 0.0, 4: 0.056, 16: 0.229, 64: 0.389}


@pytest.mark.golden
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-6)])
def test_golden(golden_dir, dtype, tolerance, request):
    """Value and gradient of SyCL's own code."""
    if dtype is np.float64:
        request.getfixturevalue("x64")
    files = sorted(golden_dir.glob("wasserstein_*.npz"))
    assert files
    for file in files:
        golden = np.load(file)
        labels = slot_labels(golden["labels"])
        loss = functools.partial(wasserstein, temperature=float(golden["temperature"]))
        value, gradient = jax.jit(jax.value_and_grad(loss))(golden["logits"].astype(dtype), labels)
        np.testing.assert_allclose(value, golden["loss"], rtol=tolerance)
        largest = np.abs(golden["grad_logits"]).max()
        np.testing.assert_allclose(gradient, golden["grad_logits"], atol=tolerance * largest)


def softmax(x, where):
    x = np.where(where, np.exp(x), 0)
    return x / np.maximum(x.sum(axis=1, keepdims=True), 1e-300)


def by_covariances(x, y, weights=None):
    """The distance in its textbook form, by the square root of a matrix."""
    weights = np.ones(len(x)) if weights is None else weights
    unbiased = len(x) / (len(x) - 1)
    covariances = [
        unbiased * np.cov(samples, rowvar=False, aweights=weights, ddof=0) for samples in (x, y)
    ]
    means = [np.average(samples, axis=0, weights=weights) for samples in (x, y)]
    # Rows sum to 1, so one direction has no variance: leave it out, where the root is not smooth.
    basis = scipy.linalg.null_space(np.ones((1, x.shape[1])))
    inside = [basis.T @ c @ basis for c in covariances]
    root = scipy.linalg.sqrtm(inside[0])
    cross = scipy.linalg.sqrtm(root @ inside[1] @ root)
    traces = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(cross).real
    return np.sum((means[0] - means[1]) ** 2) + traces


@pytest.mark.parametrize("where", ["all", "some"])
def test_equals_the_distance_of_gaussians(where, x64):
    """More samples than coordinates, so that the covariances are whole."""
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(40, 6)), rng.integers(0, 4, size=(40, 6)).astype(float)
    real = np.ones(scores.shape, bool)
    if where == "some":
        real[rng.uniform(size=real.shape) < 0.2] = False
        real[5] = False
    samples = real.any(axis=1)
    x, y = softmax(scores / 0.5, real)[samples], softmax(labels, real)[samples]
    loss = wasserstein(scores, labels, temperature=0.5, where=real)
    np.testing.assert_allclose(loss, by_covariances(x, y), rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_weights_are_those_of_weighted_samples(factor, x64):
    """Only their ratios count, and a row of weight 0 is no sample."""
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(40, 6)), rng.integers(0, 4, size=(40, 6)).astype(float)
    weights = rng.integers(0, 4, size=40)
    samples = weights > 0
    assert 20 < samples.sum() < 40
    x, y = softmax(scores, True)[samples], softmax(labels, True)[samples]
    loss = wasserstein(scores, labels, weights=factor * weights[:, None])
    np.testing.assert_allclose(loss, by_covariances(x, y, weights[samples]), rtol=1e-5)
    alone = wasserstein(scores, labels, where=np.repeat(samples[:, None], 6, 1))
    ones = wasserstein(scores, labels, weights=samples[:, None].astype(float))
    np.testing.assert_allclose(ones, alone, rtol=1e-9)


def test_list_form_is_the_distance_in_level_order(x64):
    """Lists of several lengths, with equal labels: sorted by label, then by the student's score."""
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(40, 5)), rng.integers(0, 4, size=(40, 5))
    where = np.arange(5)[None] < rng.integers(3, 6, size=(40, 1))
    order = [sorted(range(5), key=lambda k: (not w[k], -y[k], -s[k])) for s, y, w in
             zip(scores, labels, where, strict=True)]  # fmt: skip
    x, y, real = (np.take_along_axis(a, np.array(order), axis=1) for a in (scores, labels, where))
    expected = by_covariances(softmax(x, real), softmax(y, real))
    np.testing.assert_allclose(list_wasserstein(scores, labels, where=where), expected, rtol=1e-5)


def test_list_form_of_equal_levels_is_a_mean_squared_error(x64):
    scores = np.random.default_rng(2).normal(size=(30, 4))
    x, y = softmax(scores, True), softmax(LEVELS[None], True)
    spread = np.sum((x - x.mean(axis=0)) ** 2) / 29
    expected = np.sum((x.mean(axis=0) - y) ** 2) + spread
    labels = np.tile(LEVELS, (30, 1))
    np.testing.assert_allclose(list_wasserstein(scores, labels), expected, rtol=1e-9)


@pytest.mark.parametrize("num_lists", [1, 4, 16, 64])
def test_the_published_target_flattens_as_the_batch_grows_and_the_list_form_does_not(num_lists):
    """The scores at which a loss is 0 say what its target is."""
    labels = np.tile(LEVELS, (num_lists, 1))
    alone = np.exp(3) / np.exp(LEVELS).sum()
    np.testing.assert_allclose(alone, 0.644, atol=5e-4)
    assert abs(list_wasserstein(labels, labels)) < 1e-6

    slots = np.asarray(slot_labels(labels))
    assert abs(wasserstein(slots, slots)) < 1e-6
    mass = softmax(slots, True).max(axis=1)
    np.testing.assert_allclose(mass, PUBLISHED_MASS[num_lists], atol=5e-4)

    # A student whose mass is on its own list alone, as the list form wants it.
    own = np.asarray(slot_labels(np.ones_like(labels))) > 0
    loss = float(wasserstein(np.where(own, slots, -30), slots))
    assert loss == pytest.approx(PUBLISHED_LOSS[num_lists], abs=5e-4)


def test_slots_are_the_entries_of_all_lists():
    rng = np.random.default_rng(3)
    q, p = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    index = rng.integers(0, 5, size=(3, 2))
    where = np.array([[True, True], [True, False], [False, False]])
    expected = q @ p[index.reshape(-1)].T
    real = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0] * 6], bool)
    scores = slot_scores(q.astype("f"), p.astype("f"), index, where)
    np.testing.assert_allclose(scores, np.where(real, expected, 0), rtol=1e-5)
    np.testing.assert_array_equal(slot_where(where), real)
    labels = slot_labels(np.array([[3, 1], [2, 0]]))
    np.testing.assert_array_equal(labels, [[3, 1, 0, 0], [0, 0, 2, 0]])


def test_gradient_at_repeated_and_zero_singular_values_is_that_of_the_definition(x64):
    """All students' rows permuted copies (repeated values) and rank one less (zero values)."""
    scores = np.tile(np.random.default_rng(4).normal(size=(1, 4)), (4, 1))
    scores = jnp.asarray(slot_labels(scores))
    labels = slot_labels(np.tile(LEVELS, (4, 1)))
    gradient = jax.grad(wasserstein)(scores, labels)
    rng = np.random.default_rng(5)
    for _ in range(3):
        direction = rng.normal(size=scores.shape)
        ends = [wasserstein(scores + sign * 1e-5 * direction, labels) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-4, atol=1e-9)
