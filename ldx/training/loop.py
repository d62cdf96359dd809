"""The loop of a training run: steps, evaluations, checkpoints, stops."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.interrupt import Interrupted, StopRequest
from ldx.common.types import Params
from ldx.data.pipeline import read_ahead
from ldx.data.plan import BatchPlan
from ldx.eval.metrics import METRIC
from ldx.models.towers import split_passage_map
from ldx.parallel import processes
from ldx.parallel.mesh import put, replicated
from ldx.step.result import StepResult
from ldx.training.checkpoint import NUM_LAST, Checkpoints, Progress, best_params
from ldx.training.dev_set import evaluate_sources
from ldx.training.dev_values import DevValues, read_dev_values, write_dev_values
from ldx.training.metrics_writer import MetricsWriter
from ldx.training.parts import Parts
from ldx.training.settings import Criterion, Settings
from ldx.training.step_log import StepLog
from ldx.training.variants import (
    BEST_STEP,
    CHECKPOINTS,
    RUNS,
    alpha_name,
    average,
    choose,
    interpolate,
    write_tried,
)
from ldx.training.verdict import advice_on


class TrainingLoop:
    """One training run, from where its progress is to its last checkpoint."""

    def __init__(
        self,
        settings: Settings,
        workdir: Path,
        parts: Parts,
        checkpoints: Checkpoints,
        progress: Progress,
        stop: StopRequest,
    ):
        self.settings = settings
        self.workdir = workdir
        self.parts = parts
        self.checkpoints = checkpoints
        self.progress = progress
        self.stop = stop
        self.state = parts.state
        self.saved_step = -1
        self.saved_at = time.monotonic()
        if progress.evaluated_step >= 0:
            self.state = checkpoints.restore(parts.state, progress)
            self.saved_step = progress.step
            logging.info("going on from step %d", progress.step)
        self.agreement = processes.Agreement(parts.mesh)
        # A single process stops between micro-batches; several processes stop between steps.
        self.is_alone = jax.process_count() == 1
        self.check = stop.check if self.is_alone else lambda: None
        self.pending: StepResult | None = None
        self.best_key = ""  # of the best step's embeddings, as far as this process made them
        self.step_begun = time.monotonic()
        # On a CPU nothing is gained by starting a step before the last one's numbers are written.
        self.host_is_device = jax.default_backend() == "cpu"
        self.waited = 0.0
        self.writer = MetricsWriter(
            workdir,
            num_bytes=progress.metrics_bytes,
            step=progress.step,
            tensorboard=settings.logging.tensorboard,
            wandb_project=settings.logging.wandb_project,
            config=settings.whole,
            silent=not processes.is_primary(),
        )
        self.log = StepLog(self.writer, settings, parts.batches)

    def train(self) -> None:
        """Train to the end; if the run is stopped, save the last completed step."""
        try:
            self._loop()
        except Interrupted:
            self._write_pending()
            if self.saved_step != self.progress.step:
                self._save()
            logging.info("step %d is saved; the same command goes on", self.saved_step)
            raise
        finally:
            self.writer.close()

    def _loop(self) -> None:
        progress, train = self.progress, self.settings.train
        batches: Iterator[BatchPlan] = iter(())
        if not progress.ended:
            batches = read_ahead(self.parts.batches, progress.step)
        self.step_begun = time.monotonic()
        while not progress.ended:
            is_last = progress.step == train.num_steps
            due = progress.step % train.eval_every == 0 or is_last
            if due and progress.evaluated_step < progress.step:
                self._settle()
                self._evaluate(is_last)
                self._save()
                continue
            begin = time.monotonic()
            plan = next(batches)
            waited = time.monotonic() - begin
            minutes = (time.monotonic() - self.saved_at) / 60
            due = minutes > self.settings.checkpoint.every_minutes
            self.agreement.tell(progress.step, plan.digest, self.stop.signum, due)
            self.state, result = self.parts.step(self.state, plan, self._between_microbatches)
            self._write_pending()  # the step before, while the device works on this one
            self.pending, self.waited = result, waited
            progress.step += 1
            if self.host_is_device:
                self._write_pending()
            if self.agreement.save_is_due:
                self._settle()
                self._save()
        if progress.variant is None:
            self._choose_variant()
            self._save()

    def _between_microbatches(self) -> None:
        """Answer a stop, and write the numbers of the step before as soon as it is done."""
        self.check()
        # Several processes see a step done at different moments. If a loss is not finite, they must
        # run the same programs at the same moment, so they write between two steps.
        if self.is_alone and self.pending is not None and self.pending.is_ready():
            self._write_pending()

    def _settle(self) -> None:
        """Write the last step's numbers and read the messages, before a decision or a save."""
        self._write_pending()
        self.agreement.read()

    def _write_pending(self) -> None:
        """Wait for the last step and write its numbers, if they are not written yet."""
        if self.pending is None:
            return
        result, self.pending = self.pending, None
        metrics = result.metrics()
        seconds = time.monotonic() - self.step_begun
        self.step_begun += seconds
        self.log.step(self.progress.step, result.plan, metrics, seconds, self.waited)

    def _evaluate(self, is_last: bool) -> None:
        """Measure dev losses and nDCG@10, and note what is best and whether to stop."""
        step = self.progress.step
        params = self.parts.step.whole_params(self.state)
        dev_values = evaluate_sources(self.parts.dev, params, self.check)
        means = processes.from_primary(dev_values.means)
        if processes.is_primary():
            write_dev_values(self.workdir, step, dev_values)
            if step == 0:
                self._warn_of_ceiling(dev_values)
        self.writer.write(step, means)
        if not all(math.isfinite(value) for value in means.values()):
            raise UserError(f"a dev value of step {step} is not finite: {means}")
        self._note_evaluation(means, is_last)
        self._drop_embeddings(params)
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        logging.info("step %d  %s  best: step %d", step, numbers, self.progress.best_step)
        if self.progress.ended:
            logging.info("training ended at step %d: %s", step, self.progress.stop_reason)

    def _choose_variant(self) -> None:
        """Try parameters beside those of the best step, and note what is best on dev."""
        progress, train = self.progress, self.settings.train
        tried, keys, means = {}, {}, {}
        for variant, params in self._variants() if progress.best_step else ():
            tried[variant] = evaluate_sources(self.parts.dev, params, self.check)
            keys[variant] = self._key(params)
            if variant in (CHECKPOINTS, RUNS):
                means[variant] = params
        if not tried:
            if not progress.best_step and train.alpha not in ("auto", 1):
                logging.info("the base model is kept, so train.alpha=%s has no use", train.alpha)
            progress.variant = BEST_STEP
            return
        if processes.is_primary():
            for variant, values in tried.items():
                write_dev_values(self.workdir, progress.best_step, values, variant)
        per_query = {variant: each.per_query for variant, each in tried.items()}
        per_query[BEST_STEP], _ = read_dev_values(self.workdir, progress.best_step)
        variants = list(per_query)
        kept = choose(per_query) if train.alpha == "auto" else alpha_name(float(train.alpha))
        number = processes.from_primary({"kept": variants.index(kept)})["kept"]
        progress.variant = variants[int(number)]
        for variant, key in keys.items():  # the report asks for those of what is kept
            if variant != progress.kept:
                self._drop(key)
        if progress.kept in means:
            self.checkpoints.save_mean(means[progress.kept])
        if processes.is_primary():
            tried_in_all = write_tried(self.workdir, per_query, progress.kept)
            logging.info("dev %s: %s", METRIC, tried_in_all.text)

    def _variants(self) -> Iterator[tuple[str, Params]]:
        """What is tried beside the best step: alphas, and means of models."""
        progress, train = self.progress, self.settings.train
        base = put(jax.tree.map(np.asarray, self.parts.base), replicated(self.parts.mesh))
        like = self.parts.step.whole_params(self.state)
        trained = like
        if progress.best_step != progress.step:
            trained = self.checkpoints.restore_step(like, progress.best_step)
        for alpha in train.alphas:
            yield alpha_name(alpha), interpolate(base, trained, alpha)
        steps = sorted({progress.best_step, *progress.last_evaluated} - {0})
        if train.tries_checkpoints and len(steps) > 1:
            yield CHECKPOINTS, average([self.checkpoints.restore_step(like, n) for n in steps])
        if train.average_with:
            others = [best_params(folder, self.parts.base)[0] for folder in train.average_with]
            others = [put(jax.tree.map(np.asarray, x), replicated(self.parts.mesh)) for x in others]
            yield RUNS, average([trained, *others])

    def _drop_embeddings(self, params: Params) -> None:
        """Drop the embeddings by all steps but the best; the report asks for those of the best."""
        if self.progress.step == 0:
            return
        key = self._key(params)
        if self.progress.best_step != self.progress.step:
            self._drop(key)
        else:
            self._drop(self.best_key)
            self.best_key = key

    def _drop(self, key: str) -> None:
        """Drop the embeddings by a model, unless it is the base model."""
        store = self.parts.store
        if store is not None and key and key != self._key(self.parts.base):
            store.drop(key)

    def _key(self, params: Params) -> str:
        """The name of the student with these parameters in the store; "" where there is none."""
        store = self.parts.store
        return store.key(self.parts.student, split_passage_map(params)[0]) if store else ""

    def _warn_of_ceiling(self, base: DevValues) -> None:
        """Warn before training that dev will hardly show a gain."""
        select_by = self.settings.train.select_by
        if advice := advice_on(base.per_query, base.judged_by, select_by):
            logging.warning("%s", advice)

    def _note_evaluation(self, means: Mapping[str, float], is_last: bool) -> None:
        """Update the best step, the count of evaluations without improvement, and the end."""
        progress, train = self.progress, self.settings.train
        ndcg = means[f"dev/{METRIC}"]
        losses = {name: means[name] for name in ("dev/listwise_kl", "dev/total") if name in means}
        lowest = {name: progress.lowest_losses.get(name, math.inf) for name in losses}
        has_better_loss = any(losses[name] < lowest[name] for name in losses)
        has_better_ndcg = ndcg > progress.highest_ndcg
        has_lower_total = losses["dev/total"] < lowest["dev/total"]
        progress.highest_ndcg = max(ndcg, progress.highest_ndcg)
        progress.lowest_losses = {name: min(losses[name], lowest[name]) for name in losses}
        if {Criterion.NDCG: has_better_ndcg, Criterion.LOSS: has_lower_total}[train.select_by]:
            progress.best_step, progress.best_ndcg = progress.step, ndcg
        improved = {Criterion.LOSS: has_better_loss, Criterion.NDCG: has_better_ndcg, None: True}[
            train.stop_on
        ]
        progress.num_bad_evaluations = 0 if improved else progress.num_bad_evaluations + 1
        progress.evaluated_step = progress.step
        progress.last_evaluated = [*progress.last_evaluated, progress.step][-NUM_LAST:]
        if progress.num_bad_evaluations >= train.patience:
            measure = "loss" if train.stop_on == Criterion.LOSS else METRIC
            progress.stop_reason = (
                f"dev {measure} did not improve in {train.patience} evaluations in a row"
            )
        elif is_last:
            progress.stop_reason = "all steps done"

    def _save(self) -> None:
        self.progress.metrics_bytes = self.writer.flush()
        self.checkpoints.save(self.state, self.progress)
        self.saved_step, self.saved_at = self.progress.step, time.monotonic()
        self.step_begun = self.saved_at  # neither an evaluation nor a checkpoint is part of a step
        self.agreement.save_is_due = False
