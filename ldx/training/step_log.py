"""What a run says of its steps: lines of metrics, on the screen and in files."""

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
    """Writes the numbers of training steps.

    Args:
      writer: where they go beside the screen.
      settings: of the run.
      batches: what steps are made of.
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
        """Numbers of step `step`, the first of which is 1.

        Args:
          plan: of its batch.
          metrics: its losses.
          seconds: since the step before.
          waited: of these, for the batch.
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
        """Query types drawn in the epoch that ended with a step."""
        length = self._batches.steps_per_epoch
        drawn: collections.Counter[str] = collections.Counter()
        for number in range(step - length, step):
            source, numbers = self._batches.lists_of_step(number)
            types = source.table.query_types
            drawn.update(
                f"{source.name}/{types[code]}" for code in source.table.query_type[numbers]
            )
        whole = sum(drawn.values())
        shown = ", ".join(f"{name} {count} ({count / whole:.0%})" for name, count in drawn.items())
        logging.info("epoch %d drew %d lists: %s", step // length, whole, shown)
