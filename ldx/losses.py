"""Losses that teach a retriever from lists of scored passages.

Shapes: Q queries, L list entries, P distinct passages, D dimensions. A list is a row of
`list_index` [Q, L], which points into `passage_embeddings` [P, D]; entry 0 is the positive. Scores
come before any temperature. `where` [Q, L] is true at real entries; everything else is padding,
whatever it holds, and enters nothing. Losses compute in at least float32, matrix products at
`Precision.HIGHEST`: TF32 and a TPU's default are too coarse at temperature 0.01.

`reduce_fn` sees only the lists that have a loss, through its `where` argument, so padding never
changes a mean; `reduce_fn=None` returns one loss a list, 0 for the others.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jax.Array | np.ndarray  # what losses take; they return jax arrays
ReduceFn = Callable[..., jax.Array]


def dot(a: Float[Array, "A D"], b: Float[Array, "B D"]) -> Float[Array, "A B"]:
    """All dot products of two sets of embeddings, exact to the accumulating dtype."""
    return jnp.einsum("ad,bd->ab", a, b, precision=jax.lax.Precision.HIGHEST)


def list_scores(
    query_embeddings: Float[Array, "Q D"],
    passage_embeddings: Float[Array, "P D"],
    list_index: Int[Array, "Q L"],
    where: Bool[Array, "Q L"] | None = None,
) -> Float[Array, "Q L"]:
    """The student's score of every list entry: query times passage; 0 at padding."""
    query_embeddings, passage_embeddings = _at_least_float32(query_embeddings, passage_embeddings)
    where = jnp.ones(list_index.shape, bool) if where is None else where
    # Padding must not even reach the products: 0 * NaN is NaN in their gradients.
    queries = jnp.where(jnp.any(where, axis=1, keepdims=True), query_embeddings, 0)
    passages = jnp.where(where[:, :, None], passage_embeddings[list_index], 0)
    return jnp.einsum("qd,qld->ql", queries, passages, precision=jax.lax.Precision.HIGHEST)


def listwise_kl(
    student_scores: Float[Array, "*batch L"],
    teacher_scores: Float[Array, "*batch L"],
    *,
    student_temperature: float = 0.05,
    teacher_temperature: float = 0.3,
    where: Bool[Array, "*batch L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""Listwise distillation: the divergence of the student's list distribution from the teacher's.

    $$\mathrm{KL}(p \| q) = \sum_l p_l (\log p_l - \log q_l), \quad
    p = \mathrm{softmax}(t / \tau_t), \; q = \mathrm{softmax}(s / \tau_s)$$

    without the factor $\tau^2$ of Hinton et al. Source: CADET (arXiv 2505.19274), section 3.

    >>> listwise_kl(jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0])).round(4)
    Array(0.3324, dtype=float32)

    Args:
      student_scores: the student's scores (cosines, or dot products).
      teacher_scores: the teacher's scores, calibrated, higher is better.
      student_temperature: divides the student's scores.
      teacher_temperature: divides the teacher's scores.
      where: true at real entries; None means all are.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    student_scores, teacher_scores = _at_least_float32(student_scores, teacher_scores)
    where = jnp.ones(student_scores.shape, bool) if where is None else where
    student = _masked_log_softmax(student_scores / student_temperature, where)
    teacher = _masked_log_softmax(teacher_scores / teacher_temperature, where)
    losses = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1, where=where)
    return _reduce(losses, jnp.any(where, axis=-1), reduce_fn)


def info_nce(
    query_embeddings: Float[Array, "Q D"],
    passage_embeddings: Float[Array, "P D"],
    list_index: Int[Array, "Q L"],
    teacher_scores: Float[Array, "Q L"] | None,
    *,
    temperature: float = 0.01,
    false_negative_ratio: float | None = 0.6,
    where: Bool[Array, "Q L"] | None = None,
    labels: Int[Array, "Q L"] | None = None,
    block_size: int | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""InfoNCE of each query's positive against every passage slot of the global batch.

    $$-\log \frac{e^{z_{ii^+}}}{\sum_p w_{ip} e^{z_{ip}}}, \quad z_{ip} = q_i \cdot p / \tau$$

    $w_{ip}$ is the number of slots passage p fills in the batch, except that it is 1 for the
    positive, and 0 for every passage of query i's own list whose teacher score is over
    `false_negative_ratio` times that of the list's first entry (strictly), or whose label is
    positive. Sources: van den Oord et al. (arXiv 1807.03748), equation 4; the mask is CADET's
    (arXiv 2505.19274), over the whole batch.

    >>> q, p = jnp.array([[1.0, 0.0]]), jnp.array([[0.6, 0.8], [0.0, 1.0]])
    >>> info_nce(q, p, jnp.array([[0, 1]]), None, temperature=1.0).round(4)
    Array(0.4375, dtype=float32)

    Args:
      query_embeddings: one row a list.
      passage_embeddings: distinct passages; a row that no real slot points to is padding.
      list_index: rows of `passage_embeddings`; entry 0 is the positive.
      teacher_scores: calibrated scores in [0, 1]; None masks by row and label only.
      temperature: divides the dot products.
      false_negative_ratio: the threshold of the mask; None masks by row and label only.
      where: true at real entries; None means all are.
      labels: human grades, -1 unjudged; relevant entries (over 0) are no negatives of their query.
      block_size: passages that are compared with the queries at once, forwards and backwards: the
        same loss in memory for [Q, block_size] numbers instead of [Q, P]. None means all P.
      reduce_fn: reduces the losses of the lists with a real entry 0; None returns all of them.

    Returns:
      The reduced loss, or [Q] losses.
    """
    query_embeddings, passage_embeddings = _at_least_float32(query_embeddings, passage_embeddings)
    where = jnp.ones(list_index.shape, bool) if where is None else where
    counts = slot_counts(list_index, where, passage_embeddings.shape[0])
    # As in list_scores: padding must not reach the products.
    passage_embeddings = jnp.where(counts[:, None] > 0, passage_embeddings, 0)
    query_embeddings = jnp.where(where[:, :1], query_embeddings, 0)

    dropped = where & _false_negatives(teacher_scores, labels, false_negative_ratio, where)
    queries = query_embeddings / temperature
    log_sum = _log_denominator(
        queries, passage_embeddings, counts, list_index, dropped, block_size=block_size
    )
    positives = jnp.einsum(
        "qd,qd->q",
        queries,
        passage_embeddings[list_index[:, 0]],
        precision=jax.lax.Precision.HIGHEST,
    )
    return _reduce(log_sum - positives, where[:, 0], reduce_fn)


def _log_denominator(
    queries: Float[Array, "Q D"],
    passages: Float[Array, "P D"],
    counts: Int[Array, "P"],
    list_index: Int[Array, "Q L"],
    dropped: Bool[Array, "Q L"],
    *,
    block_size: int | None,
) -> Float[Array, "Q"]:
    """log sum_p w_p exp(q . p), passages block by block; weights w as in `info_nce`."""
    num_passages = passages.shape[0]
    size = min(block_size or num_passages, num_passages)
    num_blocks = -(-num_passages // size)
    padding = num_blocks * size - num_passages
    blocks = jnp.pad(passages, ((0, padding), (0, 0))).reshape(num_blocks, size, -1)
    block_counts = jnp.pad(counts, (0, padding)).reshape(num_blocks, size)

    def block_sum(number: Array, block: Array, count: Array) -> tuple[jax.Array, jax.Array]:
        weights = _slot_weights(list_index - number * size, count, dropped).astype(queries.dtype)
        logits = dot(queries, block)
        top = jnp.max(logits, axis=1, where=weights > 0, initial=-1e30)
        top = jax.lax.stop_gradient(top)
        # Weights may be 0 where logits are far over the top: no exponential of those.
        shifted = jnp.where(weights > 0, logits - top[:, None], 0)
        return top, jnp.sum(weights * jnp.exp(shifted), axis=1)

    numbers = jnp.arange(num_blocks)
    if num_blocks == 1:
        tops, sums = (x[None] for x in block_sum(numbers[0], blocks[0], block_counts[0]))
    else:
        # The backward pass computes a block's logits again instead of keeping those of all blocks.
        again = jax.checkpoint(block_sum)
        tops, sums = jax.lax.map(lambda x: again(*x), (numbers, blocks, block_counts))
    top = jnp.max(tops, axis=0)
    total = jnp.sum(sums * jnp.exp(tops - top[None]), axis=0)
    return jnp.log(jnp.where(total > 0, total, 1)) + top


def _slot_weights(
    index: Int[Array, "Q L"], counts: Int[Array, "B"], dropped: Bool[Array, "Q L"]
) -> Int[Array, "Q B"]:
    """The weight of each passage of a block for each query; `index` counts from the block on."""
    size = counts.shape[0]
    # What lies outside the block is sent past its end, where a scatter drops it.
    index = jnp.where((index >= 0) & (index < size), index, size)
    queries = jnp.arange(index.shape[0])
    is_dropped = jnp.zeros((index.shape[0], size), bool)
    is_dropped = is_dropped.at[queries[:, None], index].max(dropped, mode="drop")
    weights = jnp.where(is_dropped, 0, counts[None, :])
    return weights.at[queries, index[:, 0]].set(1, mode="drop")


def slot_counts(
    list_index: Int[Array, "Q L"], where: Bool[Array, "Q L"], num_passages: int
) -> Int[Array, "P"]:
    """How many real slots of the batch each passage fills; 0 marks padding."""
    return jnp.zeros(num_passages, jnp.int32).at[list_index].add(where.astype(jnp.int32))


def _false_negatives(
    teacher_scores: Array | None, labels: Array | None, ratio: float | None, where: Array
) -> jax.Array:
    dropped = jnp.zeros(where.shape, bool)
    if teacher_scores is not None and ratio is not None:
        (teacher_scores,) = _at_least_float32(teacher_scores)
        dropped |= teacher_scores > ratio * teacher_scores[:, :1]
    if labels is not None:
        dropped |= labels > 0
    return dropped


def _at_least_float32(*arrays: Array) -> tuple[jax.Array, ...]:
    dtype = jnp.promote_types(jnp.float32, jnp.result_type(*arrays))
    return tuple(jnp.asarray(a, dtype) for a in arrays)


def _masked_log_softmax(scores: Array, where: Array) -> jax.Array:
    """Log-softmax over the real entries; 0 at the others. Finite, gradients included."""
    scores = jnp.where(where, scores, 0)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, where=where, initial=-1e30))
    shifted = jnp.where(where, scores - top, 0)
    total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True, where=where)
    log_total = jnp.log(jnp.where(total > 0, total, 1))
    return jnp.where(where, shifted - log_total, 0)


def _reduce(losses: Array, has_loss: Array, reduce_fn: ReduceFn | None) -> jax.Array:
    losses = jnp.where(has_loss, losses, 0)
    if reduce_fn is None:
        return losses
    return jnp.where(jnp.any(has_loss), reduce_fn(losses, where=has_loss), 0)
