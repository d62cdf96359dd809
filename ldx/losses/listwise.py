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
    masked_log_softmax,
    reduce,
)


def listwise_kl(
    student_scores: Float[Array, "*batch L"],
    teacher_scores: Num[Array, "*batch L"],
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
    sentence-transformers' DistillKLDivLoss has the factor $\tau_s^2$ and is otherwise the same.

    >>> listwise_kl(jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0])).round(4)
    Array(0.3324, dtype=float32)

    Args:
      student_scores: the student's scores (cosines, or dot products).
      teacher_scores: the teacher's scores, calibrated, higher is better; or grades.
      student_temperature: divides the student's scores.
      teacher_temperature: divides the teacher's scores.
      where: true at real entries; None means all are.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    student_scores, teacher_scores = at_least_float32(student_scores, teacher_scores)
    where = all_real(student_scores.shape, where)
    student = masked_log_softmax(student_scores / student_temperature, where)
    teacher = masked_log_softmax(teacher_scores / teacher_temperature, where)
    losses = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1, where=where)
    return reduce(losses, jnp.any(where, axis=-1), reduce_fn)


def list_mle(
    student_scores: Float[Array, "*batch L"],
    targets: Num[Array, "*batch L"],
    *,
    temperature: float = 0.05,
    where: Bool[Array, "*batch L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""ListMLE: how unlikely the targets' order is when the student draws one entry after another.

    $$-\sum_i \left(z_i - \log \sum_{j: t_j \le t_i} e^{z_j}\right), \quad z = s / \tau$$

    Source: Xia et al., "Listwise approach to learning to rank" (ICML 2008), by `rax.listmle_loss`.
    Equal targets, of which rax takes the first in the list first, are ordered as the student orders
    them: the likeliest order that agrees with the targets, whatever the order of the entries.

    Averaging: as in rax, the sum over a list's entries and the mean over lists, so long lists weigh
    more. sentence-transformers' ListMLELoss is the same.

    >>> list_mle(jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0]), temperature=1.0).round(4)
    Array(0.4032, dtype=float32)

    Args:
      student_scores: the student's scores.
      targets: teacher scores or grades; only their order matters.
      temperature: divides the student's scores.
      where: true at real entries; None means all are.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    import rax

    scores, targets, where = clean_lists(student_scores, targets, temperature, where)
    order = jnp.lexsort((jax.lax.stop_gradient(scores), targets), axis=-1)
    ranks = jnp.argsort(order, axis=-1)
    losses = rax.listmle_loss(scores, ranks, where=where, reduce_fn=None)
    return reduce(losses, jnp.any(where, axis=-1), reduce_fn)


def approx_ndcg(
    student_scores: Float[Array, "*batch L"],
    targets: Num[Array, "*batch L"],
    *,
    temperature: float = 0.05,
    where: Bool[Array, "*batch L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""What is missing of a smooth nDCG, whose ranks are sums of sigmoids.

    $$1 - \frac{1}{\mathrm{IDCG}} \sum_i \frac{2^{t_i} - 1}{\log_2(1 + r_i)}, \quad
    r_i = 1 + \sum_{j \ne i} \sigma((s_j - s_i) / \tau)$$

    Source: Qin et al., "A general approximation framework for direct optimization of information
    retrieval measures" (2010), by `rax.ndcg_metric` and `rax.utils.approx_ranks`; rax's loss is
    the negative nDCG, which is this less 1. A list without gain has loss 0.

    >>> approx_ndcg(jnp.array([0.2, 0.9]), jnp.array([1.0, 0.0]), temperature=1.0).round(3)
    Array(0.294, dtype=float32)

    Args:
      student_scores: the student's scores.
      targets: teacher scores or grades, not negative.
      temperature: of the sigmoids: differences far over it count as whole ranks.
      where: true at real entries; None means all are.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    import rax

    scores, targets, where = clean_lists(student_scores, targets, temperature, where)
    smooth = functools.partial(rax.utils.approx_ranks, step_fn=jax.nn.sigmoid)
    ndcg = rax.ndcg_metric(scores, targets, where=where, rank_fn=smooth, reduce_fn=None)
    has_gain = jnp.any((targets > 0) & where, axis=-1)
    return reduce(jnp.where(has_gain, 1 - ndcg, 0), jnp.any(where, axis=-1), reduce_fn)
