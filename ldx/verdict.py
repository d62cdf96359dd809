"""Whether training helped, by dev queries: better, not distinguishable, or worse than the base.

People's dev judgments decide where the records have some, else the dev lists, whose judgments are
the teacher's. The step that is judged was chosen on the same queries, which flatters it a little.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from ldx.checkpoint import Progress
from ldx.dev import METRIC, read_dev_values
from ldx.eval.metrics import compare

BETTER, SAME, WORSE = "better", "not distinguishable", "worse"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Verdict:
    """What dev says of a run's best step.

    Attributes:
      status: BETTER, SAME or WORSE.
      text: a sentence with the numbers.
      judged_by: human or synthetic: whose judgments the dev queries have.
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


def judge(workdir: Path, progress: Progress) -> Verdict:
    """Compare the best step so far with the base model, query by query.

    Raises:
      UserError: a step was not evaluated.
    """
    step = progress.best_step
    before, judged_by = read_dev_values(workdir, 0)
    after, _ = read_dev_values(workdir, step)
    found = compare(after, before)
    base, trained = (math.fsum(each.values()) / len(each) for each in (before, after))
    if found.p_value < SIGNIFICANT and found.difference:
        status = BETTER if found.difference > 0 else WORSE
    else:
        status = SAME
    numbers = (
        f"dev {METRIC} {base:.4f} -> {trained:.4f} ({found.difference:+.4f}, 95% interval "
        f"{found.low:+.4f} to {found.high:+.4f}, p {found.p_value:.4f}; "
        f"{len(before)} {judged_by} queries, step {step})"
    )
    if step == 0:
        status = WORSE
        what = "every step was worse than the base model, which is what is kept"
        numbers = f"dev {METRIC} {base:.4f}, {len(before)} {judged_by} queries"
    else:
        what = {
            BETTER: "better than the base model",
            SAME: "not distinguishable from the base model",
            WORSE: "worse than the base model",
        }[status]
    return Verdict(
        status=status,
        text=f"{what}: {numbers}",
        judged_by=judged_by,
        step=step,
        num_queries=len(before),
        base=base,
        trained=trained,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
    )
