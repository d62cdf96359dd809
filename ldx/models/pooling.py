"""Pooling: the hidden states of a text's tokens become one embedding.

Shapes: B texts, T tokens, D hidden size.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Pooling = Literal["mean", "cls"]
POOLINGS = get_args(Pooling)

EPSILON = 1e-12


def pool(hidden: jax.Array, mask: jax.Array, pooling: Pooling) -> jax.Array:
    """The embedding [B, D] of hidden states [B, T, D], in at least float32.

    mean: over the tokens where mask [B, T] is true, special tokens included; cls: the first token.
    """
    hidden = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
    if pooling == "cls":
        return hidden[:, 0]
    assert pooling == "mean", pooling
    weights = mask.astype(hidden.dtype)
    total = jnp.einsum("btd,bt->bd", hidden, weights, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(weights.sum(axis=1, keepdims=True), 1)


def normalize(embeddings: jax.Array) -> jax.Array:
    """Embeddings [.., D] with norm 1, in at least float32; zeros stay zeros, gradients finite."""
    x = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, EPSILON**2))
