"""Attention of every token to the real tokens of its text, in the fastest way a device has.

Shapes: B texts, T tokens (padded on the right), N heads, H size of a head.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from ldx.common.errors import UserError

Attention = Literal["auto", "xla", "cudnn"]
ATTENTIONS = get_args(Attention)

HALF_TYPES = (jnp.bfloat16, jnp.float16)


def choose_attention(requested: str, dtype: Any, backend: str | None = None) -> str:
    """The implementation of attention for matrix products in `dtype` (None: float32) on a backend.

    auto is cuDNN's fused attention on an NVIDIA GPU in a 16-bit type, and XLA's own on a TPU, on a
    CPU and in float32.

    Raises:
      UserError: cudnn is requested where it cannot run.
    """
    backend = backend or jax.default_backend()
    has_cudnn = backend == "gpu" and dtype in HALF_TYPES
    if requested == "cudnn" and not has_cudnn:
        raise UserError(
            "model.attention=cudnn needs an NVIDIA GPU and model.dtype=bfloat16 (here: "
            f"{backend}, {jnp.dtype(dtype or jnp.float32).name}); use auto"
        )
    if requested == "auto":
        return "cudnn" if has_cudnn else "xla"
    return requested


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, implementation: str
) -> jax.Array:
    """Softmax attention, [B, T, N, H] each, to the tokens where mask [B, T] is true.

    Outputs at padded tokens mean nothing; they are finite.
    """
    if implementation == "cudnn":
        # Lengths, not a mask: cuDNN then skips the padding, and needs no gradient of a bias.
        lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )
    # The backward pass keeps query, key and value, but not the [B, N, T, T] weights.
    return jax.checkpoint(_attend_xla)(query, key, value, mask)


def _attend_xla(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention with heads before tokens: XLA on CPU then multiplies contiguous matrices.

    (`jax.nn.dot_product_attention` leaves the order to XLA, and works in float32 at most.)
    """
    query, key, value = (jnp.moveaxis(x, 2, 1) for x in (query, key, value))
    accumulated = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bntd,bnsd->bnts", query, key, preferred_element_type=accumulated)
    scores = jnp.where(mask[:, None, None, :], scores * query.shape[-1] ** -0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.moveaxis(jnp.einsum("bnts,bnsd->bntd", weights, value), 1, 2)
