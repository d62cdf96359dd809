"""What every loss keeps: dtypes, jit and vmap, masks, orders, finite gradients, reductions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.loss_batches import LOSSES, PER_LIST, compiled, gradient, make_batch

every_loss = pytest.mark.parametrize("name", LOSSES)
every_loss_per_list = pytest.mark.parametrize("name", PER_LIST)


@every_loss
def test_jit_and_vmap_equal_eager(name):
    batches = [make_batch(seed) for seed in range(3)]
    one_by_one = [compiled(name)(batch) for batch in batches]
    np.testing.assert_allclose(LOSSES[name](batches[0]), one_by_one[0], rtol=1e-5)
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    at_once = jax.jit(jax.vmap(LOSSES[name]))(stacked)
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_computes_in_float32_at_least(name, dtype):
    batch = make_batch()
    low = batch | {k: jnp.asarray(batch[k], dtype) for k in batch if "embeddings" in k}
    same = low | {k: jnp.asarray(low[k], jnp.float32) for k in low if "embeddings" in k}
    assert compiled(name)(low).dtype == jnp.float32
    np.testing.assert_allclose(compiled(name)(low), compiled(name)(same), rtol=1e-5)


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
    np.testing.assert_allclose(compiled(name)(padded), compiled(name)(batch), rtol=1e-5)
    ours, expected = gradient(name, padded), gradient(name, batch)
    for key, n in (("query_embeddings", num_queries), ("passage_embeddings", num_passages)):
        np.testing.assert_allclose(ours[key][:n], expected[key], atol=1e-5)
        np.testing.assert_array_equal(ours[key][n:], 0)
    if name in PER_LIST:
        np.testing.assert_array_equal(compiled(name, reduce_fn=None)(padded)[num_queries:], 0)


@every_loss
def test_empty_batch_is_zero_with_finite_gradients(name):
    batch = make_batch()
    batch["where"][:] = False
    assert compiled(name)(batch) == 0
    for leaf in jax.tree.leaves(gradient(name, batch)):
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
    np.testing.assert_allclose(compiled(name)(moved), compiled(name)(batch), rtol=1e-5)
    ours, expected = gradient(name, moved), gradient(name, batch)
    np.testing.assert_allclose(
        ours["query_embeddings"], expected["query_embeddings"][lists], atol=1e-5
    )
    np.testing.assert_allclose(
        ours["passage_embeddings"], expected["passage_embeddings"], atol=1e-5
    )
    if name in PER_LIST:
        losses = compiled(name, reduce_fn=None)
        np.testing.assert_allclose(losses(moved), losses(batch)[lists], rtol=1e-5, atol=1e-6)


@every_loss
@pytest.mark.parametrize("scale", [0, 1e4])
def test_gradient_is_finite_at_extreme_scores(name, scale):
    """Also where all scores are equal, and singular values zero or repeated."""
    batch = make_batch()
    batch["passage_embeddings"] *= scale
    for leaf in jax.tree.leaves(gradient(name, batch)):
        assert np.isfinite(leaf).all()


@every_loss
def test_gradient_equals_finite_differences_in_float64(name, x64):
    batch = make_batch(dtype=np.float64)
    assert compiled(name)(batch).dtype == jnp.float64
    slopes = gradient(name, batch)
    rng, step = np.random.default_rng(4), 1e-6
    for _ in range(3):
        direction = {key: rng.normal(size=x.shape) for key, x in slopes.items()}
        ends = [
            compiled(name)(batch | {k: batch[k] + sign * step * direction[k] for k in direction})
            for sign in (1, -1)
        ]
        expected = sum(float((slopes[key] * direction[key]).sum()) for key in direction)
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), expected, rtol=1e-5)


@every_loss_per_list
def test_reduce_fn_sees_lists_with_a_loss_only(name):
    batch = make_batch()
    batch["where"][1] = False
    each = compiled(name, reduce_fn=None)(batch)
    np.testing.assert_allclose(compiled(name, reduce_fn=jnp.sum)(batch), each.sum(), rtol=1e-6)
    np.testing.assert_allclose(compiled(name)(batch), each.sum() / 4, rtol=1e-6)


@pytest.mark.parametrize("name", ["wasserstein", "list_wasserstein"])
def test_empty_lists_are_no_samples(name):
    batch = make_batch()
    batch["where"][1] = False
    kept = [0, 2, 3, 4]
    without = {k: x if k == "passage_embeddings" else x[kept] for k, x in batch.items()}
    np.testing.assert_allclose(compiled(name)(batch), compiled(name)(without), rtol=1e-5)
