"""What every loss keeps: dtypes, jit and vmap, masks, orders, finite gradients, reductions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldx import losses
from tests.losses.loss_batches import LOSSES, PER_LIST, make_batch, outcome

every_loss = pytest.mark.parametrize("name", LOSSES)
every_loss_per_list = pytest.mark.parametrize("name", PER_LIST)


@pytest.mark.parametrize("name", [name for name in LOSSES if hasattr(losses, name)])
def test_jit_equals_eager(name):
    """Of every function; op by op is slow, so of its settings only one."""
    batch = make_batch()
    np.testing.assert_allclose(outcome(name, batch).value, LOSSES[name](batch), rtol=1e-5)


@every_loss
def test_vmap_equals_one_by_one(name):
    batches = [make_batch(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    at_once = jax.jit(jax.vmap(LOSSES[name]))(stacked)
    one_by_one = [outcome(name, batch).value for batch in batches]
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-5)


@every_loss
def test_computes_in_float32_at_least(name):
    def in_dtype(batch, dtype):
        return batch | {k: jnp.asarray(batch[k], dtype) for k in batch if "embeddings" in k}

    low = [in_dtype(make_batch(), dtype) for dtype in (jnp.bfloat16, jnp.float16)]
    values = jax.jit(lambda *batches: [LOSSES[name](batch) for batch in batches])(*low)
    for batch, value in zip(low, values, strict=True):
        assert value.dtype == jnp.float32
        same = outcome(name, in_dtype(batch, jnp.float32))
        np.testing.assert_allclose(value, same.value, rtol=1e-5)


@every_loss
@pytest.mark.parametrize("junk", [7.0, np.nan, np.inf])
def test_padding_enters_nothing(name, junk):
    """Padded lists, entries and passage rows change neither the loss nor any gradient."""
    batch = make_batch()
    batch["where"][1, 2:] = False
    num_queries, num_passages, extra = 5, 9, 2

    def pad(x, shape, fill):
        out = np.full(shape, fill, x.dtype)
        out[tuple(slice(n) for n in x.shape)] = x
        return out

    dim = batch["query_embeddings"].shape[1]
    padded = {
        "query_embeddings": pad(batch["query_embeddings"], (num_queries + extra, dim), junk),
        "passage_embeddings": pad(batch["passage_embeddings"], (num_passages + extra, dim), junk),
        "list_index": pad(batch["list_index"], (num_queries + extra, 6), num_passages),
        "teacher_scores": pad(batch["teacher_scores"], (num_queries + extra, 6), junk),
        "where": pad(batch["where"], (num_queries + extra, 6), False),
    }
    ours, expected = outcome(name, padded), outcome(name, batch)
    np.testing.assert_allclose(ours.value, expected.value, rtol=1e-5)
    for key, n in (("query_embeddings", num_queries), ("passage_embeddings", num_passages)):
        np.testing.assert_allclose(ours.gradient[key][:n], expected.gradient[key], atol=1e-5)
        np.testing.assert_array_equal(ours.gradient[key][n:], 0)
    if name in PER_LIST:
        np.testing.assert_array_equal(ours.each[num_queries:], 0)


@every_loss
def test_empty_batch_is_zero_with_finite_gradients(name):
    batch = make_batch()
    batch["where"][:] = False
    value, gradient, _ = outcome(name, batch)
    assert value == 0
    for leaf in gradient.values():
        np.testing.assert_array_equal(leaf, 0)


@every_loss
def test_order_of_lists_and_of_negatives_does_not_matter(name):
    batch = make_batch()
    batch["where"][2, 3] = False
    rng = np.random.default_rng(3)
    entries = np.array([0, *rng.permutation(np.arange(1, 4))])
    lists = rng.permutation(5)
    moved = batch | {"query_embeddings": batch["query_embeddings"][lists]}
    for key in ("list_index", "teacher_scores", "where"):
        moved[key] = batch[key][lists][:, entries]
    ours, expected = outcome(name, moved), outcome(name, batch)
    np.testing.assert_allclose(ours.value, expected.value, rtol=1e-5)
    for key, rows in (("query_embeddings", lists), ("passage_embeddings", slice(None))):
        np.testing.assert_allclose(ours.gradient[key], expected.gradient[key][rows], atol=1e-5)
    if name in PER_LIST:
        np.testing.assert_allclose(ours.each, expected.each[lists], rtol=1e-5, atol=1e-6)


@every_loss
@pytest.mark.parametrize("scale", [0, 1e4])
def test_gradient_is_finite_at_extreme_scores(name, scale):
    """Also where all scores are equal, and singular values zero or repeated."""
    batch = make_batch()
    batch["passage_embeddings"] *= scale
    for leaf in outcome(name, batch).gradient.values():
        assert np.isfinite(leaf).all()


@every_loss
def test_gradient_equals_finite_differences_in_float64(name, x64):
    batch = make_batch(dtype=np.float64)
    value, slopes, _ = outcome(name, batch)
    assert value.dtype == jnp.float64
    rng, step = np.random.default_rng(4), 1e-6
    for _ in range(3):
        direction = {key: rng.normal(size=x.shape) for key, x in slopes.items()}
        ends = [
            outcome(
                name, batch | {k: batch[k] + sign * step * direction[k] for k in direction}
            ).value
            for sign in (1, -1)
        ]
        expected = sum(float((slopes[key] * direction[key]).sum()) for key in direction)
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), expected, rtol=1e-5)


@every_loss_per_list
def test_reduce_fn_sees_lists_with_a_loss_only(name):
    batch = make_batch()
    batch["where"][1] = False
    mean, _, each = outcome(name, batch)
    total = jax.jit(functools.partial(LOSSES[name], reduce_fn=jnp.sum))(batch)
    np.testing.assert_allclose(total, each.sum(), rtol=1e-6)
    np.testing.assert_allclose(mean, each.sum() / 4, rtol=1e-6)


@pytest.mark.parametrize("name", ["wasserstein", "list_wasserstein"])
def test_empty_lists_are_no_samples(name):
    batch = make_batch()
    batch["where"][1] = False
    kept = [0, 2, 3, 4]
    without = {k: x if k == "passage_embeddings" else x[kept] for k, x in batch.items()}
    expected = jax.jit(LOSSES[name])(without)
    np.testing.assert_allclose(outcome(name, batch).value, expected, rtol=1e-5)
