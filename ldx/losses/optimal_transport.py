"""Losses that match how probability is spread over graded passages, for all lists of a batch.

Shapes: Q lists (the samples), N coordinates, L list entries, P distinct passages, D dimensions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from ldx.losses.common import (
    Array,
    all_real,
    at_least_float32,
    dot,
    entry_weights,
    masked_log_softmax,
    slot_counts,
)
from ldx.losses.loss import Batch, Loss, Setting, When


def wasserstein(
    scores: Float[Array, "Q N"],
    labels: Num[Array, "Q N"],
    *,
    temperature: float = 1.0,
    where: Bool[Array, "Q N"] | None = None,
    weights: Num[Array, "Q 1"] | None = None,
) -> jax.Array:
    r"""SyCL's loss: the squared 2-Wasserstein distance of two Gaussians.

    $$\|\mu_X - \mu_Y\|^2 + \mathrm{Tr}(\Sigma_X + \Sigma_Y - 2 (\Sigma_X \Sigma_Y)^{1/2}), \quad
    X = \mathrm{softmax}(s / \tau), \; Y = \mathrm{softmax}(y)$$

    with the rows of X and Y as samples. Source: SyCL (arXiv 2503.23239). For samples X and Y less
    their means, the last trace is the nuclear norm of $X Y^\top$ over Q - 1: one SVD of a Q x Q
    matrix (N x N where N is less), and its gradient is the orthogonal factor of that matrix. Where
    a singular value is zero the gradient is the shortest of all that are possible: always finite.

    The published form has a coordinate for every slot of the batch, N = Q L (`slot_scores`,
    `slot_labels`): passages of other lists have label 0. So its target depends on the batch: a list
    of levels 3, 2, 1, 0 gives level 3 a mass of .64 alone, .47 among 16 slots, .22 among 64, .07
    among 256, .005 among 4096, and a student that gives it .64 has a loss of 0, .06, .23 and .39
    at the first four; `list_wasserstein` gives it .64 always. Memory is for about six
    matrices [Q, N]: gradients included, with lists of 4, 7 MB at Q = 256, 0.1 GB at 1024 and 1.7 GB
    at 4096, where the SVD takes longest of all.

    >>> labels = jnp.array([[3.0, 0.0], [0.0, 3.0]])
    >>> wasserstein(jnp.zeros((2, 2)), labels).round(4)
    Array(0.8193, dtype=float32)

    Args:
      scores: the student's scores.
      labels: levels of relevance, higher is better.
      temperature: divides the student's scores; labels have none.
      where: true at real entries; None means all are. A row without any is no sample.
      weights: of the samples in means and covariances; None means 1. Only their ratios count, and a
        row of weight 0 is no sample.

    Returns:
      One number for the batch; 0 without a sample.
    """
    scores, labels = at_least_float32(scores, labels)
    where = all_real(scores.shape, where)
    weights = entry_weights(weights, jnp.any(where, axis=1, keepdims=True))
    is_sample = weights > 0
    num, total = jnp.sum(is_sample), jnp.sum(weights)
    weights = weights * (num / jnp.where(total > 0, total, 1))
    student, target = _softmax(scores / temperature, where), _softmax(labels, where)
    student_mean, target_mean = (
        jnp.sum(weights * x, axis=0) / jnp.maximum(num, 1) for x in (student, target)
    )
    root = jnp.sqrt(jnp.where(is_sample, weights, 1))
    student = jnp.where(is_sample, root * (student - student_mean[None]), 0)
    target = jnp.where(is_sample, root * (target - target_mean[None]), 0)
    spread = jnp.sum(jnp.square(student)) + jnp.sum(jnp.square(target))
    spread -= 2 * _nuclear_norm_of_product(student, target)
    return jnp.sum(jnp.square(student_mean - target_mean)) + spread / jnp.maximum(num - 1, 1)


def list_wasserstein(
    student_scores: Float[Array, "Q L"],
    labels: Num[Array, "Q L"],
    *,
    temperature: float = 1.0,
    where: Bool[Array, "Q L"] | None = None,
    weights: Num[Array, "Q 1"] | None = None,
) -> jax.Array:
    r"""`wasserstein` over each list's own entries: its target does not depend on the batch.

    The coordinates are the places of a list in level order: place 1 is the entry of the highest
    label, and so on; among equal labels the student's higher score goes first, as their targets are
    equal whichever does. So the order of the entries does not matter, and the loss is continuous.
    X and Y are softmaxes over the list alone; the batch gives only the samples that the Gaussians
    are fitted to. Passages of other lists do not enter (`info_nce` is there for them).

    Where all lists have the same levels, as SyCL's have, Y is one point, and the loss is the mean
    squared distance of the student's softmax from it (with Q - 1 in the variance). Where levels
    differ it compares mean and covariance over the lists, not list by list.

    >>> list_wasserstein(jnp.zeros((2, 2)), jnp.array([[3.0, 0.0], [0.0, 3.0]])).round(4)
    Array(0.4096, dtype=float32)

    Args:
      student_scores: the student's scores of list entries.
      labels: levels of relevance, higher is better.
      temperature: divides the student's scores; labels have none.
      where: true at real entries; None means all are. A list without any is no sample.
      weights: of the samples, as in `wasserstein`.

    Returns:
      One number for the batch; 0 without a sample.
    """
    student_scores, labels = at_least_float32(student_scores, labels)
    where = jnp.asarray(all_real(student_scores.shape, where))
    student_scores, labels = (jnp.where(where, x, 0) for x in (student_scores, labels))
    keys = -jax.lax.stop_gradient(student_scores), -labels, ~where  # the last one counts most
    order = jnp.lexsort(keys, axis=-1)
    student_scores, labels, where = (
        jnp.take_along_axis(x, order, axis=-1) for x in (student_scores, labels, where)
    )
    return wasserstein(
        student_scores, labels, temperature=temperature, where=where, weights=weights
    )


def slot_scores(
    query_embeddings: Float[Array, "Q D"],
    passage_embeddings: Float[Array, "P D"],
    list_index: Int[Array, "Q L"],
    where: Bool[Array, "Q L"] | None = None,
) -> Float[Array, "Q N"]:
    """The student's score of every slot of the batch, N = Q L, list after list; 0 at padding."""
    query_embeddings, passage_embeddings = at_least_float32(query_embeddings, passage_embeddings)
    where = all_real(list_index.shape, where)
    counts = slot_counts(list_index, where, passage_embeddings.shape[0])
    # As in list_scores: padding must not reach the products.
    queries = jnp.where(jnp.any(where, axis=1, keepdims=True), query_embeddings, 0)
    passages = jnp.where(counts[:, None] > 0, passage_embeddings, 0)
    scores = dot(queries, passages)[:, list_index.reshape(-1)]
    return jnp.where(slot_where(where), scores, 0)


def slot_labels(labels: Num[Array, "Q L"]) -> Num[Array, "Q N"]:
    """The label of every slot of the batch for each query, N = Q L: 0 off its own list."""
    num_lists = labels.shape[0]
    own = jnp.eye(num_lists, dtype=bool)[:, :, None]
    return jnp.where(own, labels[None], 0).reshape(num_lists, -1)


def slot_where(where: Bool[Array, "Q L"]) -> Bool[Array, "Q N"]:
    """The real slots of the batch for each real query, N = Q L."""
    return jnp.any(where, axis=1, keepdims=True) & where.reshape(1, -1)


def _softmax(scores: jax.Array, where: Array) -> jax.Array:
    return jnp.where(where, jnp.exp(masked_log_softmax(scores, where)), 0)


@jax.custom_vjp
def _nuclear_norm_of_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum of the singular values of a b^T, for a and b of one shape [Q, N]."""
    return _polar_of_product(a, b)[0]


def _polar_of_product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The nuclear norm, and U and V [Q, K] with a b^T = U diag(s) V^T for the s that are not 0."""
    left: jax.Array | None = None
    right: jax.Array | None = None
    if a.shape[1] < a.shape[0]:
        (left, a), (right, b) = jnp.linalg.qr(a), jnp.linalg.qr(b)
    u, s, vh = jnp.linalg.svd(_matmul(a, b.T), full_matrices=False)
    # U and V of a singular value of zero are arbitrary, and so would be their part of the gradient.
    is_nonzero = s > s.max(initial=0) * max(a.shape[0], b.shape[0]) * jnp.finfo(s.dtype).eps
    u, v = jnp.where(is_nonzero[None], u, 0), jnp.where(is_nonzero[None], vh.T, 0)
    if left is not None and right is not None:
        u, v = _matmul(left, u), _matmul(right, v)
    return jnp.sum(s), u, v


def _nuclear_norm_forward(
    a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
    norm, u, v = _polar_of_product(a, b)
    return norm, (a, b, u, v)


def _nuclear_norm_backward(
    residuals: tuple[jax.Array, jax.Array, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The derivative of the norm of M = a b^T by M is U V^T."""
    a, b, u, v = residuals
    return gradient * _matmul(u, _matmul(v.T, b)), gradient * _matmul(v, _matmul(u.T, a))


_nuclear_norm_of_product.defvjp(_nuclear_norm_forward, _nuclear_norm_backward)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _of_batch(
    function: Callable[..., jax.Array], batch: Batch, *, form: str, **settings: Any
) -> jax.Array:
    labels, where = batch.targets("labels"), batch.where
    if form == "list":
        return list_wasserstein(batch.student_scores(), labels, where=where, **settings)
    scores = slot_scores(batch.query_embeddings, batch.passage_embeddings, batch.list_index, where)
    return function(scores, slot_labels(labels), where=slot_where(where), **settings)


WASSERSTEIN = Loss(
    wasserstein,
    {"form": Setting.choice("list", "batch"), "temperature": Setting.temperature(1.0)},
    of_batch=_of_batch,
    targets="labels",
    # The published form compares the lists of the batch.
    learns_from_one_entry=When({"form": "batch"}),
)
