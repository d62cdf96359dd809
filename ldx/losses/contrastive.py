"""InfoNCE over a global batch: each positive against every passage of every list.

Shapes as in `ldx.losses`; G dimensions of the guide's embeddings.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from ldx.common.rules import number, whole
from ldx.losses.common import (
    Array,
    ReduceFn,
    at_least_float32,
    dot,
    entry_weights,
    reduce,
    slot_counts,
)
from ldx.losses.loss import Batch, Loss, Setting, When

MarginStrategy = Literal["absolute", "relative"]


def info_nce(
    query_embeddings: Float[Array, "Q D"],
    passage_embeddings: Float[Array, "P D"],
    list_index: Int[Array, "Q L"],
    teacher_scores: Float[Array, "Q L"] | None,
    *,
    temperature: float = 1.0,
    false_negative_ratio: float | None = None,
    where: Bool[Array, "Q L"] | None = None,
    weights: Num[Array, "Q #L"] | None = None,
    labels: Int[Array, "Q L"] | None = None,
    relevance_level: int = 1,
    guide_query_embeddings: Float[Array, "Q G"] | None = None,
    guide_passage_embeddings: Float[Array, "P G"] | None = None,
    guide_margin: float = 0.0,
    guide_margin_strategy: MarginStrategy = "absolute",
    block_size: int | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""InfoNCE of each query's positive against every passage slot of the global batch.

    $$-\log \frac{e^{z_{ii^+}}}{\sum_p w_{ip} e^{z_{ip}}}, \quad z_{ip} = q_i \cdot p / \tau$$

    $w_{ip}$ is the number of slots passage p fills in the batch, except that it is 1 for the
    positive, and 0 for every passage of query i's own list whose teacher score is over
    `false_negative_ratio` times that of the list's first entry (strictly), or whose label is at
    least `relevance_level`. Sources: van den Oord et al. (arXiv 1807.03748), equation 4; the mask
    is CADET's (arXiv 2505.19274), over the whole batch.

    Entry 0 is a positive unless its label says that it is not: a list whose entry 0 has a label
    from 0 to under `relevance_level` has no loss, and its passages are negatives of the others.

    A guide model, if there is one, takes out what it finds better than the positive, wherever in
    the batch it stands: $w_{ip} = 0$ where $g_{ip} > g_{ii^+} - m$ (m the margin; with the relative
    strategy, $m |g_{ii^+}|$), g the guide's dot products. Source: GISTEmbed (arXiv 2402.16829); it
    is sentence-transformers' CachedGISTEmbedLoss without its anchor-anchor and positive-positive
    terms. The mean is over queries in both.

    >>> q, p = jnp.array([[1.0, 0.0]]), jnp.array([[0.6, 0.8], [0.0, 1.0]])
    >>> info_nce(q, p, jnp.array([[0, 1]]), None).round(4)
    Array(0.4375, dtype=float32)

    Args:
      query_embeddings: one row a list.
      passage_embeddings: distinct passages; a row that no real slot points to is padding.
      list_index: rows of `passage_embeddings`; entry 0 is the positive.
      teacher_scores: calibrated scores in [0, 1]; None masks by row and label only.
      temperature: divides the dot products.
      false_negative_ratio: the threshold of the mask; None masks by row and label only.
      where: true at real entries; None means all are.
      weights: of list entries; a list's loss is multiplied by that of its entry 0, as in rax's
        softmax loss of one relevant item. None means 1. What a list of weight 0 holds is still a
        negative of the others.
      labels: human grades, -1 unjudged; relevant entries are no negatives of their query, and an
        entry 0 that was judged is a positive only if it is relevant.
      relevance_level: the least label that is relevant.
      guide_query_embeddings: the guide's, of unit norm if it compares cosines; None: no guide.
      guide_passage_embeddings: the guide's, of the rows of `passage_embeddings`.
      guide_margin: how far under the positive's the guide's score of a negative must stay.
      guide_margin_strategy: absolute, or relative to the positive's score.
      block_size: passages that are compared with the queries at once, forwards and backwards: the
        same loss in memory for [Q, block_size] numbers instead of [Q, P]. None means all P.
      reduce_fn: reduces the losses of the lists with a positive; None returns all of them.

    Returns:
      The reduced loss, or [Q] losses.
    """
    query_embeddings, passage_embeddings = at_least_float32(query_embeddings, passage_embeddings)
    where = jnp.ones(list_index.shape, bool) if where is None else where
    counts = slot_counts(list_index, where, passage_embeddings.shape[0])
    # As in list_scores: padding must not reach the products.
    passage_embeddings = jnp.where(counts[:, None] > 0, passage_embeddings, 0)
    query_embeddings = jnp.where(where[:, :1], query_embeddings, 0)

    dropped = where & _false_negatives(
        teacher_scores, labels, false_negative_ratio, relevance_level, where
    )
    guide = None
    if guide_query_embeddings is not None and guide_passage_embeddings is not None:
        guide = _make_guide(
            jnp.where(where[:, :1], guide_query_embeddings, 0),
            jnp.where(counts[:, None] > 0, guide_passage_embeddings, 0),
            list_index[:, 0],
            guide_margin,
            guide_margin_strategy,
        )
    queries = query_embeddings / temperature
    log_sum = _log_denominator(
        queries, passage_embeddings, counts, list_index, dropped, guide, block_size=block_size
    )
    positives = jnp.einsum(
        "qd,qd->q",
        queries,
        passage_embeddings[list_index[:, 0]],
        precision=jax.lax.Precision.HIGHEST,
    )
    weights = entry_weights(weights, where)[:, 0]
    has_loss = has_positive(labels, relevance_level, where) & (weights != 0)
    return reduce(weights * (log_sum - positives), has_loss, reduce_fn)


def _log_denominator(
    queries: Float[Array, "Q D"],
    passages: Float[Array, "P D"],
    counts: Int[Array, "P"],
    list_index: Int[Array, "Q L"],
    dropped: Bool[Array, "Q L"],
    guide: "_Guide | None",
    *,
    block_size: int | None,
) -> Float[Array, "Q"]:
    """log sum_p w_p exp(q . p), passages block by block; weights w as in `info_nce`."""
    num_passages = passages.shape[0]
    size = min(block_size or num_passages, num_passages)
    num_blocks = -(-num_passages // size)
    padding = num_blocks * size - num_passages

    def cut(x: Array) -> jax.Array:
        padded = jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1))
        return padded.reshape(num_blocks, size, *x.shape[1:])

    def block_sum(
        number: Array, block: Array, count: Array, guide_block: Array | None
    ) -> tuple[jax.Array, jax.Array]:
        if guide is None or guide_block is None:
            too_good = None
        else:
            too_good = dot(guide.queries, guide_block) > guide.most[:, None]
        weights = _slot_weights(list_index - number * size, count, dropped, too_good)
        weights = weights.astype(queries.dtype)
        logits = dot(queries, block)
        top = jnp.max(logits, axis=1, where=weights > 0, initial=-1e30)
        top = jax.lax.stop_gradient(top)
        # Weights may be 0 where logits are far over the top: no exponential of those.
        shifted = jnp.where(weights > 0, logits - top[:, None], 0)
        return top, jnp.sum(weights * jnp.exp(shifted), axis=1)

    blocks = jnp.arange(num_blocks), cut(passages), cut(counts), guide and cut(guide.passages)
    if num_blocks == 1:
        tops, sums = (x[None] for x in block_sum(*jax.tree.map(lambda x: x[0], blocks)))
    else:
        # The backward pass computes a block's logits again instead of keeping those of all blocks.
        again = jax.checkpoint(block_sum)
        tops, sums = jax.lax.map(lambda x: again(*x), blocks)
    top = jnp.max(tops, axis=0)
    total = jnp.sum(sums * jnp.exp(tops - top[None]), axis=0)
    return jnp.log(jnp.where(total > 0, total, 1)) + top


def _slot_weights(
    index: Int[Array, "Q L"],
    counts: Int[Array, "B"],
    dropped: Bool[Array, "Q L"],
    too_good: Bool[Array, "Q B"] | None,
) -> Int[Array, "Q B"]:
    """The weight of each passage of a block for each query; `index` counts from the block on."""
    size = counts.shape[0]
    # What lies outside the block is sent past its end, where a scatter drops it.
    index = jnp.where((index >= 0) & (index < size), index, size)
    queries = jnp.arange(index.shape[0])
    is_dropped = jnp.zeros((index.shape[0], size), bool)
    is_dropped = is_dropped.at[queries[:, None], index].max(dropped, mode="drop")
    if too_good is not None:
        is_dropped |= too_good
    weights = jnp.where(is_dropped, 0, counts[None, :])
    return weights.at[queries, index[:, 0]].set(1, mode="drop")


def _false_negatives(
    teacher_scores: Array | None,
    labels: Array | None,
    ratio: float | None,
    relevance_level: int,
    where: Array,
) -> jax.Array:
    dropped = jnp.zeros(where.shape, bool)
    if teacher_scores is not None and ratio is not None:
        (teacher_scores,) = at_least_float32(teacher_scores)
        dropped |= teacher_scores > ratio * teacher_scores[:, :1]
    if labels is not None:
        dropped |= labels >= relevance_level
    return dropped


def has_positive(labels: Array | None, relevance_level: int, where: Array) -> Array:
    """bool [Q]: entry 0 is real, and nobody judged it to be less than relevant."""
    if labels is None:
        return where[:, 0]
    return where[:, 0] & ((labels[:, 0] < 0) | (labels[:, 0] >= relevance_level))


class _Guide(NamedTuple):
    """A guide model's view of a batch."""

    queries: jax.Array  # [Q, G]
    passages: jax.Array  # [P, G]
    most: jax.Array  # [Q], the highest score that a negative may have


def _make_guide(
    queries: Array, passages: Array, positives: Array, margin: float, strategy: MarginStrategy
) -> _Guide:
    queries, passages = jax.lax.stop_gradient(at_least_float32(queries, passages))
    most = jnp.einsum("qg,qg->q", queries, passages[positives], precision=jax.lax.Precision.HIGHEST)
    most -= margin * jnp.abs(most) if strategy == "relative" else margin
    return _Guide(queries, passages, most)


def _of_batch(function: Callable[..., jax.Array], batch: Batch, **settings: Any) -> jax.Array:
    return function(
        batch.query_embeddings,
        batch.passage_embeddings,
        batch.list_index,
        batch.teacher_scores,
        where=batch.where,
        labels=batch.labels,
        guide_query_embeddings=batch.guide_query_embeddings,
        guide_passage_embeddings=batch.guide_passage_embeddings,
        **settings,
    )


INFO_NCE = Loss(
    info_nce,
    {
        "temperature": Setting.temperature(0.01),
        "false_negative_ratio": Setting.of(0.6, number(None, over=0)),
        "block_size": Setting.of(16_384, whole(1, None)),
        "relevance_level": Setting.of(1, whole(1)),
        "guide_margin": Setting.of(0.0, number()),
        "guide_margin_strategy": Setting.choice("absolute", "relative"),
    },
    of_batch=_of_batch,
    learns_from_one_entry=When(),
    takes_any_scores=When({"false_negative_ratio": None}),
    has_loss=lambda labels, where, settings: has_positive(
        labels, settings["relevance_level"], where
    ),
    uses_guide=True,
)
