"""What losses share: scores of lists, masks, weights, precision, and reductions.

Shapes as in `ldx.losses`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jax.Array | np.ndarray  # what losses take; they return jax arrays
ReduceFn = Callable[..., jax.Array]

DENSE_FACTOR = 16
"""Up to so many passages for each list entry, scores are taken from products with all of them.

A gathered embedding costs its way through memory; a product with a passage that is in no list costs
less than a tenth of that on a CPU, and less on an accelerator.
"""
MAX_GATHERED = 2**26
"""The numbers of list entries' embeddings that are in memory at once: 256 MB of float32."""


def dot(a: Float[Array, "A D"], b: Float[Array, "B D"]) -> Float[Array, "A B"]:
    """All dot products of two sets of embeddings, exact to the accumulating dtype."""
    return jnp.einsum("ad,bd->ab", a, b, precision=jax.lax.Precision.HIGHEST)


def list_scores(
    query_embeddings: Float[Array, "Q D"],
    passage_embeddings: Float[Array, "P D"],
    list_index: Int[Array, "Q L"],
    where: Bool[Array, "Q L"] | None = None,
) -> Float[Array, "Q L"]:
    """The student's score of every list entry: query times passage; 0 at padding.

    Memory does not grow as Q L D: long lists over few passages are taken from the products of all
    queries and passages, and otherwise at most `MAX_GATHERED` numbers are gathered at once.
    """
    query_embeddings, passage_embeddings = at_least_float32(query_embeddings, passage_embeddings)
    where = jnp.asarray(all_real(list_index.shape, where))
    # Padding must not even reach the products: 0 * NaN is NaN in their gradients.
    queries = jnp.where(jnp.any(where, axis=1, keepdims=True), query_embeddings, 0)
    num_passages, dim = passage_embeddings.shape
    num_queries, list_size = list_index.shape
    if num_passages <= DENSE_FACTOR * list_size:
        counts = slot_counts(jnp.asarray(list_index), where, num_passages)
        passages = jnp.where(counts[:, None] > 0, passage_embeddings, 0)
        scores = jnp.take_along_axis(dot(queries, passages), jnp.asarray(list_index), axis=1)
        return jnp.where(where, scores, 0)

    def gather(queries: Array, index: Array, where: Array) -> jax.Array:
        passages = jnp.where(where[:, :, None], passage_embeddings[index], 0)
        return jnp.einsum("qd,qld->ql", queries, passages, precision=jax.lax.Precision.HIGHEST)

    num_blocks = _power_of_two(num_queries * list_size * dim / MAX_GATHERED)
    if num_blocks == 1:
        return gather(queries, list_index, where)
    size = -(-num_queries // num_blocks)

    def cut(x: Array) -> jax.Array:
        # Neighbours go to different blocks: queries that are split over devices stay so in each.
        padding = ((0, size * num_blocks - num_queries),) + ((0, 0),) * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(size, num_blocks, x.shape[1]).swapaxes(0, 1)

    # The backward pass gathers again instead of keeping what was gathered.
    again = jax.checkpoint(gather)
    blocks = jax.lax.map(lambda x: again(*x), (cut(queries), cut(list_index), cut(where)))
    return blocks.swapaxes(0, 1).reshape(-1, list_size)[:num_queries]


def _power_of_two(least: float) -> int:
    """The first power of two that is not under `least`."""
    return 1 << max(0, math.ceil(math.log2(max(least, 1))))


def slot_counts(
    list_index: Int[Array, "Q L"], where: Bool[Array, "Q L"], num_passages: int
) -> Int[Array, "P"]:
    """How many real slots of the batch each passage fills; 0 marks padding."""
    return jnp.zeros(num_passages, jnp.int32).at[list_index].add(where.astype(jnp.int32))


def all_real(shape: tuple[int, ...], where: Array | None) -> Array:
    """The mask itself, or one that is true everywhere."""
    return jnp.ones(shape, bool) if where is None else where


def at_least_float32(*arrays: Array) -> tuple[jax.Array, ...]:
    """The arrays in one dtype that holds them all."""
    dtype = jnp.promote_types(jnp.float32, jnp.result_type(*arrays))
    return tuple(jnp.asarray(a, dtype) for a in arrays)


def masked_log_softmax(scores: Array, where: Array) -> jax.Array:
    """Log-softmax over the real entries; 0 at the others. Finite, gradients included."""
    scores = jnp.where(where, scores, 0)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, where=where, initial=-1e30))
    shifted = jnp.where(where, scores - top, 0)
    total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True, where=where)
    log_total = jnp.log(jnp.where(total > 0, total, 1))
    return jnp.where(where, shifted - log_total, 0)


def entry_weights(weights: Array | None, where: Array) -> jax.Array:
    """The weight of every list entry: 1 where there are no weights, 0 at padding."""
    (weights,) = at_least_float32(jnp.ones(()) if weights is None else weights)
    return jnp.where(where, jnp.broadcast_to(weights, where.shape), 0)


class CleanLists(NamedTuple):
    """Lists as rax takes them: 0 at padding."""

    scores: jax.Array  # over the temperature
    targets: jax.Array
    where: jax.Array
    weights: jax.Array


def clean_lists(
    student_scores: Array,
    targets: Array,
    temperature: float,
    where: Array | None,
    weights: Array | None,
) -> CleanLists:
    """The arguments of a loss of lists, as rax takes them."""
    student_scores, targets = at_least_float32(student_scores, targets)
    where = jnp.asarray(all_real(student_scores.shape, where))
    scores = jnp.where(where, student_scores, 0) / temperature
    return CleanLists(scores, jnp.where(where, targets, 0), where, entry_weights(weights, where))


def reduce(losses: Array, has_loss: Array, reduce_fn: ReduceFn | None) -> jax.Array:
    """The losses of lists, reduced over those that have one; None returns them all."""
    losses = jnp.where(has_loss, losses, 0)
    if reduce_fn is None:
        return losses
    return jnp.where(jnp.any(has_loss), reduce_fn(losses, where=has_loss), 0)
