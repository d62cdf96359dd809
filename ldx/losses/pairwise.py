"""Losses of pairs of a list's entries: a student's differences against those of the targets.

Shapes as in `ldx.losses`. Targets are teacher scores or grades, higher is better.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from ldx.losses.common import (
    Array,
    CleanLists,
    ReduceFn,
    all_real,
    at_least_float32,
    clean_lists,
    entry_weights,
    reduce,
)
from ldx.losses.loss import Loss, Setting, When


def margin_mse(
    student_scores: Float[Array, "*batch L"],
    targets: Num[Array, "*batch L"],
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    where: Bool[Array, "*batch L"] | None = None,
    weights: Num[Array, "*batch #L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""MarginMSE: the positive's lead over each other entry is to be what it is in the targets.

    $$\frac{1}{L-1} \sum_{l \ge 1} \left(\frac{s_0 - s_l}{\tau_s} - \frac{t_0 - t_l}{\tau_t}
    \right)^2$$

    Source: Hofstätter et al. (arXiv 2010.02666), equation 2. Averaging: the mean over a list's real
    entries 1, 2, ..., then over lists. sentence-transformers' MarginMSELoss, whose lists are all of
    one length, is the same (its temperatures are 1).

    >>> margin_mse(jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0])).round(4)
    Array(0.09, dtype=float32)

    Args:
      student_scores: the student's scores; entry 0 is the positive.
      targets: teacher scores or grades.
      student_temperature: divides the student's scores.
      teacher_temperature: divides the targets.
      where: true at real entries; None means all are.
      weights: of the terms of the sum, each that of entry l; None means 1.
      reduce_fn: reduces the losses of the lists with a real entry 0; None returns all of them.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    student_scores, targets = at_least_float32(student_scores, targets)
    where = jnp.asarray(all_real(student_scores.shape, where))
    weights = entry_weights(weights, where)
    error = student_scores / student_temperature - targets / teacher_temperature
    error = jnp.where(where, error, 0)
    squared = jnp.square(error[..., :1] - error[..., 1:])
    others = where[..., 1:]
    losses = jnp.sum(weights[..., 1:] * squared, axis=-1, where=others)
    losses /= jnp.maximum(jnp.sum(others, axis=-1), 1)
    return reduce(losses, where[..., 0] & jnp.any(weights != 0, axis=-1), reduce_fn)


MARGIN_MSE = Loss(
    margin_mse,
    {
        "student_temperature": Setting.temperature(1.0),
        "teacher_temperature": Setting.temperature(1.0),
        "targets": Setting.targets(),
    },
)


def rank_net(
    student_scores: Float[Array, "*batch L"],
    targets: Num[Array, "*batch L"],
    *,
    temperature: float = 1.0,
    where: Bool[Array, "*batch L"] | None = None,
    weights: Num[Array, "*batch #L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""RankNet: the logistic loss of every pair that the targets order.

    $$\frac{1}{|O|} \sum_{(i, j) \in O} \log(1 + e^{-(s_i - s_j) / \tau}), \quad
    O = \{(i, j): t_i > t_j\}$$

    Source: Burges et al., "Learning to rank using gradient descent" (ICML 2005), by
    `rax.pairwise_logistic_loss`.

    Averaging: the mean over a list's pairs, then over lists, so that every list weighs the same.
    rax, and sentence-transformers' RankNetLoss (in bits), average over the pairs of all lists at
    once; where all lists have equally many pairs that is the same.

    >>> rank_net(jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0])).round(4)
    Array(0.4032, dtype=float32)

    Args:
      student_scores: the student's scores.
      targets: teacher scores or grades; only their order matters.
      temperature: divides the student's scores.
      where: true at real entries; None means all are.
      weights: of the terms of the sum, each that of the better entry i; None means 1.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them. A list
        whose targets are all equal has loss 0.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    lists = clean_lists(student_scores, targets, temperature, where, weights)
    return reduce(_mean_over_pairs(lists), jnp.any(lists.weights != 0, axis=-1), reduce_fn)


RANK_NET = Loss(
    rank_net,
    {"temperature": Setting.temperature(0.05), "targets": Setting.targets()},
    package="rax",
)


def lambda_loss(
    student_scores: Float[Array, "*batch L"],
    targets: Num[Array, "*batch L"],
    *,
    temperature: float = 1.0,
    where: Bool[Array, "*batch L"] | None = None,
    weights: Num[Array, "*batch #L"] | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    r"""LambdaLoss: `rank_net` with every pair weighted by what it matters to nDCG.

    $$\frac{1}{|O|} \sum_{(i, j) \in O} w_{ij} \log(1 + e^{-(s_i - s_j) / \tau}), \quad
    w_{ij} = L \, \frac{|2^{t_i} - 2^{t_j}|}{\mathrm{IDCG}} \left|\frac{1}{\log_2(1 + d_{ij})} -
    \frac{1}{\log_2(2 + d_{ij})}\right|$$

    with $d_{ij}$ the difference of the student's ranks and L the list's real entries. Source: Wang
    et al., "The LambdaLoss framework for ranking metric optimization" (CIKM 2018), NDCG-Loss2, by
    `rax.pairwise_logistic_loss` with `rax.dcg2_lambdaweight(normalize=True)`.

    Averaging: as in `rank_net`; rax and sentence-transformers' LambdaLoss average over the pairs of
    all lists at once. The factor L is rax's (there padding counts in it, here it does not);
    sentence-transformers has none, and counts in bits.

    >>> lambda_loss(jnp.array([0.9, 0.2]), jnp.array([1.0, 0.0])).round(4)
    Array(0.2976, dtype=float32)

    Args:
      student_scores: the student's scores.
      targets: teacher scores or grades, not negative.
      temperature: divides the student's scores.
      where: true at real entries; None means all are.
      weights: of the terms of the sum, each that of the better entry i, and of the gains $2^t$ and
        those of the IDCG; None means 1.
      reduce_fn: reduces the losses of the lists with a real entry; None returns all of them. A list
        whose targets are all equal has loss 0.

    Returns:
      The reduced loss, or [*batch] losses.
    """
    import rax

    lists = clean_lists(student_scores, targets, temperature, where, weights)
    weigh = functools.partial(rax.dcg2_lambdaweight, normalize=True)
    losses = _mean_over_pairs(lists, weigh)
    # rax scales the weights by the length of the padded list.
    losses *= jnp.sum(lists.where, axis=-1) / lists.where.shape[-1]
    return reduce(losses, jnp.any(lists.weights != 0, axis=-1), reduce_fn)


LAMBDA_LOSS = Loss(
    lambda_loss,
    {"temperature": Setting.temperature(0.05), "targets": Setting.targets()},
    takes_any_scores=When({"targets": "labels"}),  # gains are 2^target
    package="rax",
)


def _mean_over_pairs(
    lists: CleanLists, lambdaweight_fn: Callable[..., jax.Array] | None = None
) -> jax.Array:
    """The logistic loss of each list [*batch], averaged over the pairs that its targets order."""
    import rax

    targets, where = lists.targets, lists.where
    losses = rax.pairwise_logistic_loss(
        lists.scores,
        targets,
        where=where,
        weights=lists.weights,
        lambdaweight_fn=lambdaweight_fn,
        reduce_fn=None,
    )
    pairs = (targets[..., :, None] > targets[..., None, :]) & where[..., :, None]
    pairs &= where[..., None, :]
    return jnp.sum(losses, axis=-1) / jnp.maximum(jnp.sum(pairs, axis=(-2, -1)), 1)
