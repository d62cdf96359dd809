"""Pooling equals sentence-transformers' and stays finite where nothing is left to pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ldx.models.pooling import normalize, pool


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_equals_sentence_transformers(pooling: str) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(4, 7, 8)).astype(np.float32)
    mask = np.arange(7)[None] < np.array([[1], [3], [7], [5]])
    features = {
        "token_embeddings": torch.from_numpy(hidden),
        "attention_mask": torch.from_numpy(mask).long(),
    }
    theirs = Pooling(8, pooling_mode=pooling)(features)["sentence_embedding"]
    np.testing.assert_allclose(pool(jnp.asarray(hidden), mask, pooling), theirs, atol=1e-6)
    unit = torch.nn.functional.normalize(theirs)
    np.testing.assert_allclose(normalize(jnp.asarray(theirs.numpy())), unit, atol=1e-6)


def test_half_precision_is_pooled_in_float32() -> None:
    hidden = jnp.full((1, 1000, 1), 1.0, jnp.bfloat16).at[0, 0].set(3.0)
    pooled = pool(hidden, jnp.ones((1, 1000), bool), "mean")
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, 1.002, rtol=1e-6)


def test_no_token_and_zero_embedding_are_finite() -> None:
    empty = pool(jnp.ones((2, 3, 4)), jnp.zeros((2, 3), bool), "mean")
    np.testing.assert_array_equal(empty, 0)
    np.testing.assert_array_equal(normalize(empty), 0)
    gradient = jax.jit(jax.grad(lambda x: normalize(x).sum()))(jnp.zeros((2, 4)))
    assert np.isfinite(gradient).all()
