"""Weights: what ones, zeros, factors and padding do in every loss."""

import numpy as np
import pytest

from ldx.losses.common import entry_weights
from tests.losses.loss_batches import LOSSES, PER_LIST, make_batch, outcome

OF_WHOLE_LISTS = ("wasserstein", "list_wasserstein")
ONLY_RATIOS_COUNT = ("approx_ndcg", *OF_WHOLE_LISTS)

every_loss = pytest.mark.parametrize("name", [n for n in LOSSES if n != "matryoshka"])
every_loss_per_list = pytest.mark.parametrize("name", PER_LIST)


def with_weights(name, batch, weights):
    """The batch with weights of list entries, or of lists where the loss has only those."""
    weights = np.broadcast_to(weights, batch["where"].shape).astype("f")
    return batch | {"weights": weights[:, :1] if name in OF_WHOLE_LISTS else weights}


def random_weights(shape):
    return np.random.default_rng(7).uniform(0.2, 2, size=shape)


def test_weights_are_of_entries_or_of_lists():
    where = np.array([[True, True], [True, False]])
    np.testing.assert_array_equal(entry_weights(None, where), where)
    of_lists = entry_weights(np.array([[2], [3]]), where)
    np.testing.assert_array_equal(of_lists, [[2, 2], [3, 0]])
    of_entries = entry_weights(np.array([[2.0, 0.5], [3.0, np.nan]]), where)
    np.testing.assert_array_equal(of_entries, [[2, 0.5], [3, 0]])


@every_loss
def test_ones_change_nothing(name):
    batch = make_batch()
    ours, expected = outcome(name, with_weights(name, batch, 1)), outcome(name, batch)
    np.testing.assert_allclose(ours.value, expected.value, rtol=1e-6)
    for key, leaf in ours.gradient.items():
        np.testing.assert_allclose(leaf, expected.gradient[key], atol=1e-6)


@every_loss
def test_a_factor_of_all_weights_is_one_of_the_loss(name):
    """But where only ratios of weights count."""
    batch = make_batch()
    weights = random_weights((5, 4))
    value, tripled = (outcome(name, with_weights(name, batch, n * weights)).value for n in (1, 3))
    assert abs(value - outcome(name, batch).value) > 1e-4
    factor = 1 if name in ONLY_RATIOS_COUNT else 3
    np.testing.assert_allclose(tripled, factor * value, rtol=1e-5)


@every_loss_per_list
def test_a_list_of_weight_zero_has_no_loss(name):
    """The others' losses are theirs times their weights, and the mean is over the others."""
    batch = make_batch()
    weights = random_weights((5, 1))
    weights[1] = 0
    ours, unweighted = outcome(name, with_weights(name, batch, weights)), outcome(name, batch)
    factors = np.sign(weights) if name in ONLY_RATIOS_COUNT else weights
    np.testing.assert_allclose(ours.each, factors[:, 0] * unweighted.each, rtol=1e-5)
    np.testing.assert_allclose(ours.value, ours.each.sum() / 4, rtol=1e-5)
    np.testing.assert_array_equal(ours.gradient["query_embeddings"][1], 0)


def test_a_list_of_weight_zero_is_no_sample():
    """Of the published form its slots are coordinates still; test_losses_wasserstein has that."""
    batch = make_batch()
    without = batch | {"where": batch["where"] & (np.arange(5) != 1)[:, None]}
    weights = np.where(np.arange(5) == 1, 0, 2)[:, None]
    values = [
        outcome("list_wasserstein", with_weights("list_wasserstein", *pair)).value
        for pair in ((batch, weights), (without, 1))
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


@every_loss
def test_all_weights_zero_is_zero_with_finite_gradients(name):
    value, gradient, _ = outcome(name, with_weights(name, make_batch(), 0))
    assert value == 0
    for leaf in gradient.values():
        np.testing.assert_array_equal(leaf, 0)


@every_loss
@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_weights_of_padding_enter_nothing(name, junk):
    batch = make_batch()
    batch["where"][1, 2:] = False
    batch["where"][3] = False
    weights = random_weights((5, 1)) * np.ones(4)
    spoilt = np.where(batch["where"], weights, junk)
    ours, expected = (outcome(name, with_weights(name, batch, w)) for w in (spoilt, weights))
    np.testing.assert_allclose(ours.value, expected.value, rtol=1e-5)
    for key, leaf in ours.gradient.items():
        assert np.isfinite(leaf).all()
        np.testing.assert_allclose(leaf, expected.gradient[key], atol=1e-6)
