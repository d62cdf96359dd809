"""Whether training helped, by dev queries: better, not distinguishable, or worse than the base.

People's dev judgments decide where the records have some, else the dev lists. A step that dev
nDCG@10 chose is flattered a little by the same queries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ldx.eval.metrics import METRIC, Comparison, compare
from ldx.training.checkpoint import Progress
from ldx.training.dev_values import evaluated_steps, read_dev_values

BETTER, SAME, WORSE = "better", "not distinguishable", "worse"
UNKNOWN = "not known yet"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Verdict:
    """What dev says of a run's best step.

    Attributes:
      status: BETTER, SAME, WORSE (also where the base model is kept), or UNKNOWN.
      text: a sentence with the numbers.
      judged_by: whose queries dev has, and who judged for them; see `DevValues`.
      step: the best one; 0 is the base model.
      num_queries: that were compared.
      base: the base model's mean nDCG@10.
      trained: the best step's.
      low: the lower end of the 95% bootstrap interval of the difference.
      high: its upper end.
      p_value: of the paired permutation test.
    """

    status: str
    text: str
    judged_by: str
    step: int
    num_queries: int
    base: float
    trained: float
    low: float
    high: float
    p_value: float


def judge(workdir: Path, progress: Progress, select_by: str = "ndcg") -> Verdict:
    """Compare the best step so far with the base model, query by query.

    Args:
      workdir: of the run.
      progress: where it stands.
      select_by: what chose the best step, `config.train.select_by`.

    Raises:
      UserError: a step was not evaluated.
    """
    step = progress.best_step
    before, judged_by = read_dev_values(workdir, 0)
    after, _ = read_dev_values(workdir, step)
    found = compare(after, before)
    base, trained = _mean(before), _mean(after)
    queries = f"{len(before)} {judged_by}"
    others = [number for number in evaluated_steps(workdir) if 0 < number <= progress.step]
    if step:
        status = _status(found)
        text = (
            f"{status} {'from' if status == SAME else 'than'} the base model: dev {METRIC} "
            f"{base:.4f} -> {trained:.4f} ({found.difference:+.4f}, 95% interval {found.low:+.4f} "
            f"to {found.high:+.4f}, p {found.p_value:.4f}; {queries}, step {step})"
        )
    elif others:
        status, rule = WORSE, {"ndcg": f"higher dev {METRIC}", "loss": "lower dev loss"}[select_by]
        best = max(_mean(read_dev_values(workdir, number)[0]) for number in others)
        text = (
            f"{WORSE} than the base model, which is what is kept: no step had a {rule} "
            f"(dev {METRIC} {base:.4f}, at most {best:.4f} after training; {queries})"
        )
    else:
        status = UNKNOWN
        text = f"{UNKNOWN}: only the base model was evaluated (dev {METRIC} {base:.4f}; {queries})"
    return Verdict(
        status=status,
        text=text,
        judged_by=judged_by,
        step=step,
        num_queries=len(before),
        base=base,
        trained=trained,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
    )


def _status(found: Comparison) -> str:
    if found.p_value >= SIGNIFICANT or not found.difference:
        return SAME
    return BETTER if found.difference > 0 else WORSE


def _mean(values: Mapping[str, float]) -> float:
    return math.fsum(values.values()) / len(values)
