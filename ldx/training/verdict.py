"""Whether training helped, by dev queries.

People's dev judgments decide where the records have some, else the dev lists. If dev nDCG@10 also
chose the step, the same queries flatter it a little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ldx.eval.metrics import METRIC, SIGNIFICANT, Comparison, compare
from ldx.records.schema import Judge
from ldx.training.advice import read_advice
from ldx.training.checkpoint import Progress
from ldx.training.dev_values import evaluated_steps, read_dev_values
from ldx.training.settings import Criterion
from ldx.training.variants import in_words, mean

CEILING = 0.95
"""The dev nDCG@10 of a base model from which on there is hardly room for a better one."""


class Status(StrEnum):
    """How the best step compares with the base model."""

    BETTER = "better"
    SAME = "not distinguishable"
    WORSE = "worse"
    BASE_KEPT = "base model kept"
    UNKNOWN = "not known yet"


@dataclass(frozen=True)
class Verdict:
    """What dev queries say of a run's best step.

    Attributes:
      status: whether it is better; BASE_KEPT where no step was, so that the model of the run is the
        base model, unchanged.
      text: a sentence with the numbers.
      advice: sentences on what limits the run; none where nothing is known to.
      judged_by: who wrote the dev queries, and who judged for them; see `DevValues`.
      step: the best step; 0 is the base model.
      num_queries: the number of queries that were compared.
      base: the mean nDCG@10 of the base model.
      trained: the mean nDCG@10 of the best step.
      low: the lower end of the 95% bootstrap interval of the difference.
      high: the upper end of that interval.
      p_value: the p-value of the paired permutation test.
    """

    status: Status
    text: str
    advice: tuple[str, ...]
    judged_by: str
    step: int
    num_queries: int
    base: float
    trained: float
    low: float
    high: float
    p_value: float


def advice_on(base: Mapping[str, float], judged_by: str, select_by: str) -> str:
    """A sentence on what the base model's dev nDCG@10 leaves to gain; "" where there is room.

    Args:
      base: nDCG@10 by query.
      judged_by: who wrote the dev queries, and who judged them.
      select_by: the rule that chooses the step, `config.train.select_by`.
    """
    if mean(base) < CEILING:
        return ""
    remedies = []
    if not judged_by.startswith(f"human queries judged by {Judge.PEOPLE}"):
        remedies.append("dev queries that people judge (config.prep.human_dev_split)")
    if select_by == Criterion.NDCG:
        remedies.append("choosing the step by the dev loss (config.train.select_by=loss)")
    remedies.append("a teacher that ranks unlike the student")
    return (
        f"dev is saturated: the untrained model's dev {METRIC} is {mean(base):.4f}, so there is "
        f"hardly room for a better step; what would tell steps apart: {', or '.join(remedies)}"
    )


def judge(workdir: Path, progress: Progress, select_by: str = Criterion.NDCG) -> Verdict:
    """Compare the best step so far with the base model, query by query.

    Args:
      workdir: the run's folder.
      progress: the progress of the run.
      select_by: the rule that chose the best step, `config.train.select_by`.

    Raises:
      UserError: a step was not evaluated.
    """
    step = progress.best_step
    before, judged_by = read_dev_values(workdir, 0)
    advice = [advice_on(before, judged_by, select_by), *read_advice(workdir)]
    after, _ = read_dev_values(workdir, step, progress.kept)
    comparison = compare(after, before)
    base, trained = mean(before), mean(after)
    queries = f"{len(before)} {judged_by}"
    trained_steps = [number for number in evaluated_steps(workdir) if 0 < number <= progress.step]
    if step:
        status = _status(comparison)
        text = (
            f"{status} {'from' if status == Status.SAME else 'than'} the base model: dev {METRIC} "
            f"{base:.4f} -> {trained:.4f} ({comparison.difference:+.4f}, 95% interval "
            f"{comparison.low:+.4f} to {comparison.high:+.4f}, p {comparison.p_value:.4f}; "
            f"{queries}, {_kept(progress)})"
        )
    elif trained_steps:
        status = Status.BASE_KEPT
        rule = f"higher dev {METRIC}" if select_by == Criterion.NDCG else "lower dev loss"
        means = {number: mean(read_dev_values(workdir, number)[0]) for number in trained_steps}
        highest = max(means, key=lambda number: means[number])
        text = (
            f"{status}: no step had a {rule} (dev {METRIC} {base:.4f}, at most "
            f"{means[highest]:.4f} after training, at step {highest}; {queries})"
        )
    else:
        status = Status.UNKNOWN
        text = f"{status}: only the base model was evaluated (dev {METRIC} {base:.4f}; {queries})"
    return Verdict(
        status=status,
        text=text,
        advice=tuple(filter(None, advice)),
        judged_by=judged_by,
        step=step,
        num_queries=len(before),
        base=base,
        trained=trained,
        low=comparison.low,
        high=comparison.high,
        p_value=comparison.p_value,
    )


def _kept(progress: Progress) -> str:
    """What is kept, in words."""
    variant = f", {in_words(progress.kept)}" if progress.kept else ""
    return f"step {progress.best_step}{variant}"


def _status(comparison: Comparison) -> Status:
    if comparison.p_value >= SIGNIFICANT or not comparison.difference:
        return Status.SAME
    return Status.BETTER if comparison.difference > 0 else Status.WORSE
