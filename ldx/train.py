"""Train: `python -m ldx.train --config=configs/demo.py --workdir=DIR`.

Distils the lists of `python -m data_prep.run` into the student, keeps the best checkpoint by dev
nDCG@10 or by dev loss (the untouched model is a candidate too), and ends with a report on human
judgments. Killed at any moment, the same command goes on; a finished run prints its report again.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

from ldx.common import cli
from ldx.common.errors import UserError
from ldx.common.interrupt import Interrupted, StopRequest
from ldx.common.sections import build
from ldx.data.sources import Source, lists_of_epoch, source_configs
from ldx.models.student import check_model_section, load_student
from ldx.parallel import processes
from ldx.records.manifest import Manifest
from ldx.report import final
from ldx.step.objective import make_objective
from ldx.training.checkpoint import Checkpoints, Progress, read_progress
from ldx.training.guide import add_guide, load_guide
from ldx.training.leakage import report_leakage
from ldx.training.loop import TrainingLoop
from ldx.training.parts import Parts, check_cut, make_parts, open_sources
from ldx.training.settings import Settings, check_same_run, resolve, save_run
from ldx.training.verdict import judge

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
    judged = final.judged_datasets(workdir, settings.whole, configs, manifests)
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
            TrainingLoop(
                settings, workdir, parts, checkpoints, progress or Progress(), stop
            ).train()
    if processes.is_primary():
        progress = read_progress(workdir)
        assert progress is not None
        verdict = judge(workdir, progress, settings.train.select_by)
        with stop:
            final.make(workdir, settings.whole, judged, student, stop.check, verdict)


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


if __name__ == "__main__":
    cli.define_config()
    cli.run(main, leave=processes.leave)
