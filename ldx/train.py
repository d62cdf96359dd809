"""Train: `python -m ldx.train --config=configs/demo.py --workdir=DIR`.

Distils the lists of `python -m data_prep.run` into the student, keeps the best checkpoint by dev
nDCG@10 (the untouched model is a candidate too), and ends with a report on human judgments. Killed
at any moment, the same command goes on; a finished run prints its report again.
"""

import dataclasses
import datetime
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

from ldx import cli, final_report
from ldx.checkpoint import Checkpoints, Progress, read_progress
from ldx.data.batching import Shapes
from ldx.data.lists import BatchSize
from ldx.data.pipeline import BatchSource, num_batches, read_ahead
from ldx.data.plan import BatchPlan, BatchPlanner
from ldx.data.records import ListSource, Manifest, PassageSource, PassageTexts
from ldx.data.tokens import TokenStore
from ldx.dev import METRIC, DevSet
from ldx.errors import UserError, listing
from ldx.eval.encode import Encoder
from ldx.interrupt import Interrupted, StopRequest
from ldx.models.student import Student, load_student
from ldx.objective import Objective, make_objective
from ldx.optim import make_optimizer, make_schedule
from ldx.settings import (
    Settings,
    build,
    check_model_section,
    check_same_run,
    resolve,
    save_run,
)
from ldx.sharding import make_mesh, replicated
from ldx.summaries import MetricsWriter
from ldx.train_step import TrainState, TrainStep, init_state

flags.DEFINE_string("workdir", None, "Folder of the run: config, metrics, checkpoints, report")


def main(argv: list[str]) -> None:
    """Train, or go on, or print the report of a finished run."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; every setting is a flag: --name=value")
    train(cli.get_config().to_dict(), Path(cli.required("workdir")))


def train(config: Mapping[str, Any], workdir: Path) -> None:
    """Do the run of `config` in `workdir`.

    Raises:
      UserError: something that was given is wrong; before anything is compiled.
      Interrupted: asked to stop; the last completed step is saved.
    """
    check_model_section(config["model"])
    objective = make_objective(config["loss"])
    records = Path(config["data"]["records"] or workdir / "records")
    manifest = Manifest.read(records)
    _check_texts(config["data"], manifest, records)
    train_lists, dev_lists = ListSource(records, "train"), ListSource(records, "dev")
    settings = resolve(config, len(train_lists))
    dataset = final_report.judged_dataset(workdir, settings.whole)
    student = build(load_student, config["model"], "model")
    fingerprints = {"model": student.fingerprint, **manifest.fingerprints}
    progress = read_progress(workdir)
    if progress:
        check_same_run(workdir, settings.whole, fingerprints)
    workdir.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    if not (progress and progress.finished):
        list_size = _check_lists(train_lists, dev_lists, objective, settings.data.list_size)
        passages = PassageSource(records)
        store = _open_tokens(workdir, settings, student, passages, manifest)
        parts = _make_parts(settings, student, objective, store, train_lists, dev_lists, list_size)
        checkpoints = Checkpoints(workdir)
        checkpoints.discard_uncommitted(progress)
        save_run(workdir, settings.whole, fingerprints)
        _print_start(settings, len(train_lists), len(dev_lists), len(passages))
        with stop:
            _Run(settings, workdir, parts, checkpoints, progress or Progress(), stop).train()
    else:
        save_run(workdir, settings.whole, fingerprints)
    with stop:
        final_report.make(workdir, settings.whole, dataset, student, stop.check)


def _check_texts(data: Mapping[str, Any], manifest: Manifest, records: Path) -> None:
    """Records and config must speak of the same passage texts."""
    for key in ("passage_template", "max_chars"):
        if data[key] != getattr(manifest, key):
            raise UserError(
                f"config.data.{key}={data[key]!r}, but {records} was made with "
                f"{getattr(manifest, key)!r}; set it so, or run data_prep again"
            )


def _check_lists(
    train_lists: ListSource, dev_lists: ListSource, objective: Objective, list_size: int | None
) -> int:
    """Read every list once, before anything is compiled; the length of the longest.

    Raises:
      UserError: a list is not valid, or has scores that the objective cannot use.
    """
    longest, problems = 0, []
    for source in (train_lists, dev_lists):
        for number in range(len(source)):
            record = source[number]
            longest = max(longest, len(record.rows))
            scores = record.teacher_scores
            where = f"{source.split} list {record.list_id!r}"
            if not len(scores) and objective.needs_teacher:
                problems.append(f"{where}: no teacher scores, but listwise_kl learns from them")
            elif objective.needs_unit_scores and ((scores < 0) | (scores > 1)).any():
                problems.append(
                    f"{where}: teacher scores from {scores.min():g} to {scores.max():g}"
                )
    if problems:
        raise UserError(
            "the records do not fit config.loss: listwise_kl needs teacher scores, and "
            "info_nce.false_negative_ratio compares ratios of scores, so it wants them in [0, 1] "
            "(None switches it off)\n" + listing(problems)
        )
    return min(longest, list_size or longest)


def _open_tokens(
    workdir: Path,
    settings: Settings,
    student: Student,
    passages: PassageSource,
    manifest: Manifest,
) -> TokenStore:
    """The tokens of every passage, made where they are missing."""
    texts = PassageTexts(
        passages,
        prompt=student.config.passage_prompt,
        template=settings.data.passage_template,
        max_chars=settings.data.max_chars,
    )
    return TokenStore.open_or_build(
        workdir / "tokens",
        texts=texts,
        tokenizer=student.tokenizer,
        key=f"{manifest.fingerprints['passages']} {texts!r}",
        description="tokens",
    )


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a run trains with."""

    state: TrainState  # before the first step
    step: TrainStep
    batches: BatchSource
    dev: DevSet
    steps_per_epoch: int


def _make_parts(
    settings: Settings,
    student: Student,
    objective: Objective,
    store: TokenStore,
    train_lists: ListSource,
    dev_lists: ListSource,
    list_size: int,
) -> _Parts:
    """Batches, dev set, step and first state, over all devices."""
    config, mesh = student.config, make_mesh()
    tokens, batch_size = settings.train.microbatch_tokens, settings.data.batch_size
    encoder = Encoder(student, mesh=mesh, microbatch_tokens=tokens)
    planner = BatchPlanner(
        student.tokenizer,
        store,
        query_prompt=config.query_prompt,
        query_max_length=config.query_max_length,
        passage_max_length=config.passage_max_length,
        shapes=Shapes.make(
            max(config.query_max_length, config.passage_max_length),
            tokens,
            num_devices=mesh.size,
            lengths=settings.train.bucket_lengths,
        ),
        size=BatchSize(batch_size, list_size, min(len(store), batch_size * list_size)),
        num_devices=mesh.size,
    )
    dev = DevSet(
        dev_lists,
        planner,
        encoder,
        objective,
        num_passages=len(store),
        pool_size=settings.train.dev_pool,
        seed=settings.seed,
    )
    batches = BatchSource(
        train_lists,
        planner,
        batch_size=batch_size,
        seed=settings.seed,
        num_steps=settings.train.num_steps,
    )
    optimizer = make_optimizer(settings.optim, settings.train.num_steps)
    step = TrainStep(encoder.embedder, objective, optimizer, buffer_rows=planner.buffer_rows)
    state = jax.device_put(init_state(student.params, optimizer), replicated(mesh))
    return _Parts(state, step, batches, dev, num_batches(len(train_lists), batch_size))


def _print_start(settings: Settings, num_train: int, num_dev: int, num_passages: int) -> None:
    logging.info("config:\n%s", json.dumps(settings.whole, indent=2))
    data, optim, train = settings.data, settings.optim, settings.train
    logging.info(
        "%d train lists, %d dev lists, %d passages on %d %s device(s)\n"
        "batch_size %d, %d steps an epoch, %d steps; learning_rate %.3g, warmup_steps %d; "
        "evaluation every %d steps",
        num_train,
        num_dev,
        num_passages,
        jax.device_count(),
        jax.default_backend(),
        data.batch_size,
        num_batches(num_train, data.batch_size),
        train.num_steps,
        optim.learning_rate,
        optim.warmup_steps,
        train.eval_every,
    )


class _Run:
    """One training run, from where its progress is to its last checkpoint."""

    def __init__(
        self,
        settings: Settings,
        workdir: Path,
        parts: _Parts,
        checkpoints: Checkpoints,
        progress: Progress,
        stop: StopRequest,
    ):
        self.settings = settings
        self.parts = parts
        self.checkpoints = checkpoints
        self.progress = progress
        self.stop = stop
        self.schedule = make_schedule(settings.optim, settings.train.num_steps)
        self.state = parts.state
        self.saved_step = -1
        self.saved_at = time.monotonic()
        if progress.evaluated_step >= 0:
            self.state = checkpoints.restore(parts.state, progress)
            self.saved_step = progress.step
            logging.info("going on from step %d", progress.step)
        self.writer = MetricsWriter(
            workdir,
            num_bytes=progress.metrics_bytes,
            step=progress.step,
            tensorboard=settings.logging.tensorboard,
            wandb_project=settings.logging.wandb_project,
            config=settings.whole,
        )

    def train(self) -> None:
        """Train to the end; a stop saves the last completed step."""
        try:
            self._loop()
        except Interrupted:
            if self.saved_step != self.progress.step:
                self._save()
            logging.info("step %d is saved; the same command goes on", self.saved_step)
            raise
        finally:
            self.writer.close()

    def _loop(self) -> None:
        progress, train = self.progress, self.settings.train
        batches: Iterator[BatchPlan] = read_ahead(self.parts.batches, progress.step)
        while not progress.finished:
            is_last = progress.step == train.num_steps
            due = progress.step % train.eval_every == 0 or is_last
            if due and progress.evaluated_step < progress.step:
                self._evaluate(is_last)
                self._save()
                continue
            begin = time.monotonic()
            plan = next(batches)
            waited = time.monotonic() - begin
            self.state, metrics = self.parts.step(self.state, plan, self.stop.check)
            self._write_step(plan, metrics, time.monotonic() - begin, waited)
            progress.step += 1
            if time.monotonic() - self.saved_at > 60 * self.settings.checkpoint.every_minutes:
                self._save()

    def _write_step(
        self, plan: BatchPlan, metrics: Mapping[str, float], seconds: float, waited: float
    ) -> None:
        """Numbers of the step just done, numbered from 1."""
        step, train = self.progress.step + 1, self.settings.train
        rate = float(self.schedule(self.progress.step))
        counts = {"num_distinct_passages": plan.num_distinct_passages, "num_slots": plan.num_slots}
        self.writer.write(step, {**metrics, "learning_rate": rate, **counts})
        times = {"seconds_per_step": seconds, "input_wait_seconds": waited}
        self.writer.write_times(step, times)
        if step % self.settings.logging.every_steps == 0 or step == train.num_steps:
            losses = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            left = datetime.timedelta(seconds=round(seconds * (train.num_steps - step)))
            logging.info(
                "step %d/%d  epoch %.2f  %s  lr %.2e  passages %d of %d slots  %.1f s  left %s",
                step,
                train.num_steps,
                step / self.parts.steps_per_epoch,
                losses,
                rate,
                plan.num_distinct_passages,
                plan.num_slots,
                seconds,
                left,
            )

    def _evaluate(self, is_last: bool) -> None:
        """Dev losses and nDCG@10 of the state; updates what is best, and whether to stop."""
        progress, train = self.progress, self.settings.train
        values = self.parts.dev.evaluate(self.state.params, self.stop.check)
        self.writer.write(progress.step, values)
        ndcg = values[f"dev/{METRIC}"]
        losses = {k: v for k, v in values.items() if k in ("dev/listwise_kl", "dev/total")}
        if not all(math.isfinite(value) for value in values.values()):
            raise UserError(f"a dev value of step {progress.step} is not finite: {values}")
        lowest = progress.lowest_losses
        better_loss = any(value < lowest.get(name, math.inf) for name, value in losses.items())
        better_ndcg = ndcg > progress.best_ndcg
        progress.lowest_losses = {k: min(v, lowest.get(k, math.inf)) for k, v in losses.items()}
        if better_ndcg:
            progress.best_step, progress.best_ndcg = progress.step, ndcg
        improved = {"loss": better_loss, "ndcg": better_ndcg, None: True}[train.stop_on]
        progress.num_bad_evaluations = 0 if improved else progress.num_bad_evaluations + 1
        progress.evaluated_step = progress.step
        if progress.num_bad_evaluations >= train.patience:
            what = {"loss": "no dev loss", "ndcg": f"dev {METRIC} not"}[train.stop_on or "loss"]
            progress.stop_reason = f"{what} improved {train.patience} times in a row"
        elif is_last:
            progress.stop_reason = "all steps done"
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        logging.info("step %d  %s  best: step %d", progress.step, shown, progress.best_step)
        if progress.finished:
            logging.info("training ended at step %d: %s", progress.step, progress.stop_reason)

    def _save(self) -> None:
        self.progress.metrics_bytes = self.writer.flush()
        self.checkpoints.save(self.state, self.progress)
        self.saved_step, self.saved_at = self.progress.step, time.monotonic()


if __name__ == "__main__":
    cli.define_config()
    cli.run(main)
