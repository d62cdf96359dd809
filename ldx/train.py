"""Train: `python -m ldx.train --config=configs/demo.py --workdir=DIR`.

Distils the lists of `python -m data_prep.run` into the student, keeps the best checkpoint by dev
nDCG@10 or by dev loss (the untouched model is a candidate too), and ends with a report on human
judgments. Killed at any moment, the same command goes on; a finished run prints its report again.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

from ldx import final_report
from ldx.assemble import Parts, check_cut, lists_of_epoch, make_parts, open_sources, source_configs
from ldx.checkpoint import Checkpoints, Progress, read_progress
from ldx.common import cli
from ldx.common.errors import UserError
from ldx.common.interrupt import Interrupted, StopRequest
from ldx.common.sections import build
from ldx.data.pipeline import read_ahead
from ldx.data.plan import BatchPlan
from ldx.data.sources import Source
from ldx.dev import METRIC, evaluate_sources, warn_of_perfect, write_dev_values
from ldx.guide import add_guide, load_guide
from ldx.leakage import report_leakage
from ldx.models.student import load_student
from ldx.objective import make_objective
from ldx.parallel import processes
from ldx.records.manifest import Manifest
from ldx.settings import Settings, check_model_section, check_same_run, resolve, save_run
from ldx.step_log import StepClock, StepLog
from ldx.summaries import MetricsWriter
from ldx.train_step import StepResult
from ldx.verdict import judge

flags.DEFINE_string("workdir", None, "Folder of the run: config, metrics, checkpoints, report")
processes.define_flags()


def main(argv: list[str]) -> None:
    """Train, or go on, or print the report of a finished run."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; every setting is a flag: --name=value")
    config, workdir = cli.get_config().to_dict(), Path(cli.required("workdir"))
    processes.initialize()
    try:
        train(config, workdir)
    except Interrupted:
        processes.stop_together()
        raise
    except (RuntimeError, ValueError) as error:
        if told := processes.explain_loss(error):
            raise told from None
        raise


def train(config: Mapping[str, Any], workdir: Path) -> None:
    """Do the run of `config` in `workdir`; with several processes, each calls this.

    Raises:
      UserError: something that was given is wrong; before anything is compiled.
      Interrupted: asked to stop; the last completed step is saved.
    """
    check_model_section(config["model"])
    objective = make_objective(config["loss"])
    configs = source_configs(config["data"], workdir)
    manifests = {name: Manifest.read(source.records) for name, source in configs.items()}
    _check_texts(config["data"], manifests)
    weights = config["data"]["query_type_weights"]
    settings = resolve(config, *lists_of_epoch(configs, manifests, weights))
    judged = final_report.judged_datasets(workdir, settings.whole, configs, manifests)
    student = build(load_student, config["model"], "model")
    objective = objective.of_student(
        unit_norm=student.config.normalize, embedding_size=student.embedding_size
    )
    guide = load_guide(config["guide"], objective)
    fingerprints = {"model": student.fingerprint} | _fingerprints(manifests)
    if guide:
        fingerprints["guide"] = guide.fingerprint
    progress = read_progress(workdir)
    seen = dataclasses.asdict(progress) if progress else None
    processes.check_same("config, records and progress", [settings.whole, fingerprints, seen])
    if progress:
        check_same_run(workdir, settings.whole, fingerprints)
    workdir.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    finished = progress is not None and progress.finished
    if not finished:
        mesh = check_cut(settings, student)
        sources = open_sources(workdir, settings, configs, manifests, student, objective)
        if processes.is_primary():
            datasets = {name: each.dataset for name, each in judged.items()}
            report_leakage(workdir, sources, datasets, settings.eval.relevance_level)
        if guide:
            sources, guide = add_guide(sources, guide, workdir), None  # its parameters are freed
        parts = make_parts(settings, student, objective, sources, mesh)
        checkpoints = Checkpoints(workdir)
        checkpoints.discard_uncommitted(progress)
    if processes.is_primary():
        save_run(workdir, settings.whole, fingerprints)
    if not finished:
        _print_start(settings, parts, sources)
        with stop:
            _Run(settings, workdir, parts, checkpoints, progress or Progress(), stop).train()
    if processes.is_primary():
        progress = read_progress(workdir)
        assert progress is not None
        verdict = judge(workdir, progress, settings.train.select_by)
        with stop:
            final_report.make(workdir, settings.whole, judged, student, stop.check, verdict)


def _check_texts(data: Mapping[str, Any], manifests: Mapping[str, Manifest]) -> None:
    """Records and config must speak of the same passage texts; several sources have their own."""
    if data["sources"]:
        logging.info("every source has the passage_template and max_chars of its own records")
        return
    (manifest,) = manifests.values()
    for key in ("passage_template", "max_chars"):
        if data[key] != getattr(manifest, key):
            raise UserError(
                f"config.data.{key}={data[key]!r}, but the records were made with "
                f"{getattr(manifest, key)!r}; set it so, or run data_prep again"
            )


def _fingerprints(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Of the records of every source."""
    return {
        f"{kind} of {name}" if name else kind: value
        for name, manifest in manifests.items()
        for kind, value in manifest.fingerprints.items()
    }


def _print_start(settings: Settings, parts: Parts, sources: Mapping[str, Source]) -> None:
    logging.info("config:\n%s", json.dumps(settings.whole, indent=2))
    optim, train = settings.optim, settings.train
    for source in sources.values():
        logging.info(
            "%s: %d train lists, %d dev lists, %d passages",
            source.name,
            len(source.train),
            len(source.dev),
            len(source.passages),
        )
    logging.info(
        "%s %s device(s) in %d process(es), mesh %s\n"
        "batch_size %d, %d steps an epoch, %d steps; learning_rate %.3g, warmup_steps %d; "
        "evaluation every %d steps",
        jax.device_count(),
        jax.default_backend(),
        jax.process_count(),
        dict(parts.mesh.shape),
        settings.data.batch_size,
        parts.batches.steps_per_epoch,
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
        # Alone, a stop is answered between micro-batches; several processes stop between steps.
        self.check = stop.check if jax.process_count() == 1 else lambda: None
        self.pending: StepResult | None = None
        self.clock = StepClock()
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
        """Train to the end; a stop saves the last completed step."""
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
        batches: Iterator[BatchPlan] = read_ahead(self.parts.batches, progress.step)
        while not progress.finished:
            is_last = progress.step == train.num_steps
            due = progress.step % train.eval_every == 0 or is_last
            if due and progress.evaluated_step < progress.step:
                self._settle()
                self._evaluate(is_last)
                self._save()
                self.clock.restart()
                continue
            begin = time.monotonic()
            plan = next(batches)
            waited = time.monotonic() - begin
            minutes = (time.monotonic() - self.saved_at) / 60
            due = minutes > self.settings.checkpoint.every_minutes
            self.agreement.tell(progress.step, plan.digest, self.stop.signum, due)
            self.state, result = self.parts.step(self.state, plan, self._between_microbatches)
            self._write_pending()  # of the step before: the device has this one to work on
            self.pending, self.waited = result, waited
            progress.step += 1
            if self.agreement.save_is_due:
                self._settle()
                self._save()

    def _between_microbatches(self) -> None:
        """Answer a stop, and see whether the step before is done."""
        self.check()
        if self.pending is not None:
            self.clock.look(self.pending.is_ready())

    def _settle(self) -> None:
        """Before anything is decided or saved: the last step's numbers, and what others told."""
        self._write_pending()
        self.agreement.read()

    def _write_pending(self) -> None:
        """Numbers of the step that was done last, if they are not written yet."""
        if self.pending is None:
            return
        result, self.pending = self.pending, None
        metrics = result.metrics()
        self.log.step(self.progress.step, result.plan, metrics, self.clock.lap(), self.waited)

    def _evaluate(self, is_last: bool) -> None:
        """Dev losses and nDCG@10 of the state; updates what is best, and whether to stop."""
        progress, train = self.progress, self.settings.train
        params = self.parts.step.whole_params(self.state)
        found = evaluate_sources(self.parts.dev, params, self.check)
        values = processes.from_primary(found.means)
        if processes.is_primary():
            write_dev_values(self.workdir, progress.step, found)
            if progress.step == 0:
                warn_of_perfect(found.per_query)
        self.writer.write(progress.step, values)
        ndcg = values[f"dev/{METRIC}"]
        losses = {k: v for k, v in values.items() if k in ("dev/listwise_kl", "dev/total")}
        if not all(math.isfinite(value) for value in values.values()):
            raise UserError(f"a dev value of step {progress.step} is not finite: {values}")
        lowest = progress.lowest_losses
        better_loss = any(value < lowest.get(name, math.inf) for name, value in losses.items())
        better_ndcg = ndcg > progress.best_ndcg
        lower_total = losses["dev/total"] < lowest.get("dev/total", math.inf)
        progress.lowest_losses = {k: min(v, lowest.get(k, math.inf)) for k, v in losses.items()}
        if {"ndcg": better_ndcg, "loss": lower_total}[train.select_by]:
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
        self.agreement.save_is_due = False


if __name__ == "__main__":
    cli.define_config()
    cli.run(main, leave=processes.leave)
