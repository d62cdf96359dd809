"""Losses of whole lists: a student's scores of a list's entries against their targets.

Shapes as in `ldx.losses`. Targets are teacher scores or grades, higher is better.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from ldx.losses.common import (
    Array,
    ReduceFn,
    all_real,
    at_least_float32,
    clean_lists,
    entry_weights,
    masked_log_softmax,
    reduce,
)
from ldx.losses.loss import Loss, Setting, When


def listwise_kl(
    student_scores: Float[Array, "*batch L"],
    teacher_scores: Num[Array, "*batch L"],
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    where: Bool[Array, "*batch L"] | None = None,
    weights: Num[Array, "*batch #L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""Listwise distillation: the divergence of the student's list distribution from the teacher's.

    $$\mathrm{KL}(p \| q) = \sum_l p_l (\log p_l - \log q_l), \quad
    p = \mathrm{softmax}(t / \tau_t), \; q = \mathrm{softmax}(s / \tau_s)$$

    without the factor $\tau^2$ of Hinton et al. Source: CADET (arXiv 2505.19274), section 3.
    sentence-transformers' DistillKLDivLoss has the factor $\tau_s^2$ and is otherwise the same.

    >>> student, teacher = jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0])
    >>> listwise_kl(student, teacher, student_temperature=0.05, teacher_temperature=0.3).round(4)
    Array(0.3324, dtype=float32)

    Args:
      student_scores: the student's scores (cosines, or dot products).
      teacher_scores: the teacher's scores, calibrated, higher is better; or grades.
      student_temperature: divides the student's scores.
      teacher_temperature: divides the teacher's scores.
      where: true at real entries; None means all are.
      weights: of the terms of the sum over a list's entries; None means 1.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    student_scores, teacher_scores = at_least_float32(student_scores, teacher_scores)
    where = all_real(student_scores.shape, where)
    student = masked_log_softmax(student_scores / student_temperature, where)
    teacher = masked_log_softmax(teacher_scores / teacher_temperature, where)
    weights = entry_weights(weights, where)
    losses = jnp.sum(weights * jnp.exp(teacher) * (teacher - student), axis=-1, where=where)
    return reduce(losses, jnp.any(weights != 0, axis=-1), reduce_fn)


LISTWISE_KL = Loss(
    listwise_kl,
    {
        "student_temperature": Setting.temperature(0.05),
        "teacher_temperature": Setting.temperature(0.3),
        "targets": Setting.targets(),
    },
)


def list_mle(
    student_scores: Float[Array, "*batch L"],
    targets: Num[Array, "*batch L"],
    *,
    temperature: float = 1.0,
    where: Bool[Array, "*batch L"] | None = None,
    weights: Num[Array, "*batch #L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""ListMLE: how unlikely the targets' order is when the student draws one entry after another.

    $$-\sum_i \left(z_i - \log \sum_{j: t_j \le t_i} e^{z_j}\right), \quad z = s / \tau$$

    Source: Xia et al., "Listwise approach to learning to rank" (ICML 2008). It is
    `rax.listmle_loss` with weights, and with another order of equal targets, of which rax takes the
    first in the list first: here they are ordered as the student orders them, which is the
    likeliest order that agrees with the targets, whatever the order of the entries.

    Averaging: as in rax, the sum over a list's entries and the mean over lists, so long lists weigh
    more. sentence-transformers' ListMLELoss is the same.

    >>> list_mle(jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0])).round(4)
    Array(0.4032, dtype=float32)

    Args:
      student_scores: the student's scores.
      targets: teacher scores or grades; only their order matters.
      temperature: divides the student's scores.
      where: true at real entries; None means all are.
      weights: of the terms of the sum over a list's entries; None means 1.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    lists = clean_lists(student_scores, targets, temperature, where, weights)
    # From the last that is drawn to the first, padding before them.
    order = jnp.lexsort((jax.lax.stop_gradient(lists.scores), lists.targets, lists.where), axis=-1)
    scores, where, weights = (
        jnp.take_along_axis(x, order, axis=-1) for x in (lists.scores, lists.where, lists.weights)
    )
    left = jax.lax.cumlogsumexp(jnp.where(where, scores, -1e30), axis=where.ndim - 1)
    losses = jnp.sum(weights * (left - scores), axis=-1, where=where)
    return reduce(losses, jnp.any(weights != 0, axis=-1), reduce_fn)


LIST_MLE = Loss(list_mle, {"temperature": Setting.temperature(0.05), "targets": Setting.targets()})


def approx_ndcg(
    student_scores: Float[Array, "*batch L"],
    targets: Num[Array, "*batch L"],
    *,
    temperature: float = 1.0,
    where: Bool[Array, "*batch L"] | None = None,
    weights: Num[Array, "*batch #L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""What is missing of a smooth nDCG, whose ranks are sums of sigmoids.

    $$1 - \frac{1}{\mathrm{IDCG}} \sum_i \frac{2^{t_i} - 1}{\log_2(1 + r_i)}, \quad
    r_i = 1 + \sum_{j \ne i} \sigma((s_j - s_i) / \tau)$$

    Source: Qin et al., "A general approximation framework for direct optimization of information
    retrieval measures" (2010), by `rax.ndcg_metric` and `rax.utils.approx_ranks`; rax's loss is
    the negative nDCG, which is this less 1. A list without gain has loss 0.

    >>> approx_ndcg(jnp.array([0.2, 0.9]), jnp.array([1.0, 0.0])).round(3)
    Array(0.294, dtype=float32)

    Args:
      student_scores: the student's scores.
      targets: teacher scores or grades, not negative.
      temperature: of the sigmoids: differences far over it count as whole ranks.
      where: true at real entries; None means all are.
      weights: of the gains, those of the ideal order too; None means 1. Only their ratios within a
        list count.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    import rax

    lists = clean_lists(student_scores, targets, temperature, where, weights)
    smooth = functools.partial(rax.utils.approx_ranks, step_fn=jax.nn.sigmoid)
    ndcg = rax.ndcg_metric(
        lists.scores,
        lists.targets,
        where=lists.where,
        weights=lists.weights,
        rank_fn=smooth,
        reduce_fn=None,
    )
    has_gain = jnp.any((lists.targets > 0) & (lists.weights > 0), axis=-1)
    losses = jnp.where(has_gain, 1 - ndcg, 0)
    return reduce(losses, jnp.any(lists.weights != 0, axis=-1), reduce_fn)


APPROX_NDCG = Loss(
    approx_ndcg,
    {"temperature": Setting.temperature(0.05), "targets": Setting.targets()},
    takes_any_scores=When({"targets": "labels"}),  # gains are 2^target - 1
    package="rax",
)
