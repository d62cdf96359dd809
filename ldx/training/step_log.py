"""What a run reports of its steps: lines of metrics, on the screen and in files."""

import collections
import datetime
from collections.abc import Mapping

from absl import logging

from ldx.data.pipeline import Batches
from ldx.data.plan import BatchPlan
from ldx.step.optim import make_schedule
from ldx.training.metrics_writer import MetricsWriter
from ldx.training.settings import Settings


class StepLog:
    """A log of training steps.

    Args:
      writer: the files to which numbers go besides the screen.
      settings: the settings of the run.
      batches: the batches of the run.
    """

    def __init__(self, writer: MetricsWriter, settings: Settings, batches: Batches):
        self._writer, self._batches = writer, batches
        self._num_steps = settings.train.num_steps
        self._every_steps = settings.logging.every_steps
        self._schedule = make_schedule(settings.optim, self._num_steps)
        self._has_several_sources = len(batches.sources) > 1

    def step(
        self,
        step: int,
        plan: BatchPlan,
        metrics: Mapping[str, float],
        seconds: float,
        waited: float,
    ) -> None:
        """Write the numbers of a step.

        Args:
          step: the number of the step; the first is 1.
          plan: the plan of its batch.
          metrics: its losses.
          seconds: the time since the step before.
          waited: the part of that time in which the step waited for its batch.
        """
        counts = {
            "num_distinct_passages": plan.num_distinct_passages,
            "num_slots": plan.num_slots,
            "num_tokens": plan.num_tokens,
        }
        source = {"source": plan.source} if self._has_several_sources else {}
        rate = float(self._schedule(step - 1))
        self._writer.write(step, {**source, **metrics, "learning_rate": rate, **counts})
        if self._has_several_sources:
            of_source = {f"{plan.source}/{name}": value for name, value in metrics.items()}
            self._writer.write_extra(step, of_source)
        work = {
            "seconds_per_step": seconds,
            "input_wait_seconds": waited,
            "num_padded_tokens": plan.num_padded_tokens,
        }
        self._writer.write_extra(step, work)
        if step % self._every_steps == 0 or step == self._num_steps:
            self._show(step, plan, metrics, rate, seconds, waited)
        if step % self._batches.steps_per_epoch == 0:
            self._show_mix(step)

    def _show(
        self,
        step: int,
        plan: BatchPlan,
        metrics: Mapping[str, float],
        rate: float,
        seconds: float,
        waited: float,
    ) -> None:
        losses = {name: value for name, value in metrics.items() if name != "gradient_norm"}
        if len(losses) == 2:  # one loss, and their total
            losses.pop("total", None)
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        left = datetime.timedelta(seconds=round(seconds * (self._num_steps - step)))
        logging.info(
            "step %d/%d%s  epoch %.2f  %s  lr %.2e  %.1f s  left %s",
            step,
            self._num_steps,
            f"  {plan.source}" if self._has_several_sources else "",
            step / self._batches.steps_per_epoch,
            numbers,
            rate,
            seconds,
            left,
        )
        logging.debug(
            "step %d/%d  gradient_norm %.4f  passages %d of %d slots (%.2f)  input wait %.3f s",
            step,
            self._num_steps,
            metrics["gradient_norm"],
            plan.num_distinct_passages,
            plan.num_slots,
            plan.num_distinct_passages / max(plan.num_slots, 1),
            waited,
        )

    def _show_mix(self, step: int) -> None:
        """Log how many lists of each query type were drawn in the epoch that ended with a step."""
        length = self._batches.steps_per_epoch
        counts: collections.Counter[str] = collections.Counter()
        for number in range(step - length, step):
            source, numbers = self._batches.lists_of_step(number)
            types = source.table.query_types
            counts.update(
                f"{source.name}/{types[code]}" for code in source.table.query_type[numbers]
            )
        total = sum(counts.values())
        shares = ", ".join(f"{name} {n} ({n / total:.0%})" for name, n in counts.items())
        logging.info("epoch %d drew %d lists: %s", step // length, total, shares)
