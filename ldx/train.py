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
from ldx.common.callable_module import make_callable
from ldx.common.config_paths import is_path_key
from ldx.common.configs import Config, changes_from_base, plain_config
from ldx.common.errors import UserError
from ldx.common.files import folder_path
from ldx.common.interrupt import Interrupted, StopRequest
from ldx.common.sections import build, flatten_config
from ldx.common.tensorboard import import_without_torch
from ldx.data.sources import Source, SourceConfig, lists_of_epoch, source_configs
from ldx.models.section import check_model_section
from ldx.models.student import Student, load_student
from ldx.parallel import processes
from ldx.records.manifest import Manifest
from ldx.report import final
from ldx.report.result import RunResult
from ldx.retrieval.store import get_store
from ldx.step.objective import Objective, make_objective
from ldx.training.advice import report_advice
from ldx.training.checkpoint import Checkpoints, Progress, read_progress
from ldx.training.cut import report_cut
from ldx.training.guide import add_guide, load_guide
from ldx.training.leakage import report_leakage
from ldx.training.loop import TrainingLoop
from ldx.training.other_runs import check_others
from ldx.training.parts import Parts, check_cut, make_parts, open_sources
from ldx.training.settings import (
    CONFIG_NAME,
    JUDGMENTS,
    SECTIONS,
    Settings,
    TrainedTowers,
    check_same_run,
    check_sections,
    resolve,
    save_run,
)
from ldx.training.stored_passages import add_stored_passages
from ldx.training.verdict import judge


def define_flags() -> None:
    """Define the flags of this command."""
    cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of the run: config, metrics, checkpoints, report")
    processes.define_flags()


def main(argv: list[str]) -> None:
    """Train, or go on, or print the report of a finished run."""
    cli.refuse_arguments(argv)
    config, workdir = cli.get_config(), cli.required_folder("workdir")
    import_without_torch()
    processes.initialize()
    try:
        result = train(config, workdir)
    except Interrupted:
        processes.stop_together()
        raise
    except (RuntimeError, ValueError) as error:
        if explanation := processes.explain_loss(error):
            raise explanation from None
        raise
    if processes.is_primary():
        for path in (result.report, result.page):
            if path.exists():
                logging.info("%s", path)
        print(result.text, end="", flush=True)


def train(config: Config, workdir: str | Path) -> RunResult:
    """Train as `config` says; go on with a run that was stopped, or read a finished one.

    Args:
      config: an experiment, such as `configs.demo.get_config()`, its plain form, or the path of its
        file, such as "configs/demo.py:smoke".
      workdir: the folder of the run, with the records of `ldx.prepare` unless the config names
        others.

    Returns:
      The verdict, the results on human judgments, and where they are. Of several processes, which
      all call this, the first makes the report.

    Raises:
      UserError: something that was given is wrong; before anything is compiled.
      Interrupted: the process was asked to stop; the last completed step is saved.
    """
    workdir = folder_path("workdir", workdir)
    inputs = _read(plain_config(config, SECTIONS), workdir)
    with processes.hold_together(workdir, "ldx.train"):
        _run(inputs, workdir)
    return RunResult(workdir)


@dataclasses.dataclass(eq=False)
class _Inputs:
    """All that a run is given, read and checked by itself.

    Attributes:
      config: as it was given.
      settings: the same, with every "auto" replaced.
      objective: the weighted losses.
      student: the model, with the parameters of the base model.
      guide: the model that tells false negatives, if there is one.
      sources: the corpora by name, "" for the only one.
      manifests: of their records.
      judged: the collections with human judgments.
      fingerprints: of models and records; a run that goes on must have the same.
    """

    config: Mapping[str, Any]
    settings: Settings
    objective: Objective
    student: Student
    guide: Student | None
    sources: Mapping[str, SourceConfig]
    manifests: Mapping[str, Manifest]
    judged: Mapping[str, final.JudgedCollection]
    fingerprints: dict[str, str]


def _run(inputs: _Inputs, workdir: Path) -> None:
    """Train and report, from where the run in `workdir` stands."""
    progress = _check(inputs, workdir)
    stop = StopRequest()
    is_finished = progress is not None and progress.finished
    loop = None if is_finished else _open(inputs, workdir, progress, stop)
    if processes.is_primary():
        save_run(workdir, inputs.settings.whole, inputs.fingerprints)
    if loop is not None:
        with stop:
            loop.train()
        del loop  # the report needs the room of its state
    if processes.is_primary():
        _report(inputs, workdir, stop)


def _read(config: dict[str, Any], workdir: Path) -> _Inputs:
    """Read models, manifests and collections; raises UserError where one is missing or wrong."""
    check_sections(config)
    check_model_section(config["model"])
    objective = make_objective(config["loss"])
    sources = source_configs(config["data"], workdir)
    manifests = {name: Manifest.read(source.records) for name, source in sources.items()}
    _check_texts(config["data"], manifests)
    config = _with_settings_of_records(config, manifests)
    weights = config["data"]["query_type_weights"]
    settings = resolve(config, *lists_of_epoch(sources, manifests, weights))
    judged = final.judged_datasets(workdir, settings.whole, sources, manifests)
    student = build(load_student, config["model"], "model")
    objective = objective.of_student(
        unit_norm=student.config.normalize, embedding_size=student.embedding_size
    )
    guide = load_guide(config["guide"], objective)
    fingerprints = {"model": student.fingerprint} | _record_fingerprints(manifests)
    fingerprints |= {
        f"{JUDGMENTS} of {name}" if name else JUDGMENTS: (
            judged[name].dataset.fingerprint if name in judged else ""
        )
        for name in sources
    }
    if guide:
        fingerprints["guide"] = guide.fingerprint
    return _Inputs(
        config, settings, objective, student, guide, sources, manifests, judged, fingerprints
    )


def _check(inputs: _Inputs, workdir: Path) -> Progress | None:
    """Where the run in `workdir` stands, None if it is new.

    Raises:
      UserError: it is of another config, model or records, or processes do not agree.
    """
    progress = read_progress(workdir)
    seen = dataclasses.asdict(progress) if progress else None
    # Only the process that makes the report needs the judged collections.
    shared = {k: v for k, v in inputs.fingerprints.items() if not k.startswith(JUDGMENTS)}
    processes.check_same("config, records and progress", [inputs.settings.whole, shared, seen])
    if progress:
        check_same_run(workdir, inputs.settings.whole, inputs.fingerprints)
    if progress is None or not progress.finished:
        check_others(inputs.settings, inputs.fingerprints["model"])
    workdir.mkdir(parents=True, exist_ok=True)
    return progress


def _open(
    inputs: _Inputs, workdir: Path, progress: Progress | None, stop: StopRequest
) -> TrainingLoop:
    """Tokenise the texts, compile the step, and open the checkpoints."""
    settings, student, objective = inputs.settings, inputs.student, inputs.objective
    mesh = check_cut(settings, student)
    sources = open_sources(workdir, settings, inputs.sources, inputs.manifests, student, objective)
    if progress is None:
        for name, source in inputs.sources.items():
            inputs.manifests[name].check_files(source.records)
    if processes.is_primary():
        datasets = {name: each.dataset for name, each in inputs.judged.items()}
        report_leakage(workdir, sources, datasets, settings.eval.relevance_level)
        report_cut(workdir, sources, datasets, student)
        report_advice(workdir, inputs.manifests)
    if inputs.guide:
        sources = add_guide(sources, inputs.guide, workdir)
        inputs.guide = None  # its parameters are freed
    if settings.train.towers == TrainedTowers.QUERY:
        sources = add_stored_passages(sources, student, workdir)
    # Several processes might not find the same embeddings, and must embed the same texts.
    store = get_store(workdir) if jax.process_count() == 1 else None
    parts = make_parts(settings, student, objective, sources, mesh, store)
    checkpoints = Checkpoints(workdir)
    checkpoints.discard_uncommitted(progress)
    _log_start(inputs, workdir, parts, sources)
    return TrainingLoop(settings, workdir, parts, checkpoints, progress or Progress(), stop)


def _report(inputs: _Inputs, workdir: Path, stop: StopRequest) -> None:
    """Make what is missing of the finished run's report."""
    progress = read_progress(workdir)
    assert progress is not None
    verdict = judge(workdir, progress, inputs.settings.train.select_by)
    whole, judged, student = inputs.settings.whole, inputs.judged, inputs.student
    with stop:
        final.make(workdir, whole, judged, student, stop.check, verdict)
    store = get_store(workdir)
    if store.num_requested:
        logging.info("%s", store.summary())


def _check_texts(data: Mapping[str, Any], manifests: Mapping[str, Manifest]) -> None:
    """Records and config must speak of the same passage texts; several sources have their own."""
    if data["sources"]:
        logging.debug("every source has the passage_template and max_chars of its own records")
        return
    (manifest,) = manifests.values()
    for key in ("passage_template", "max_chars"):
        if data[key] != getattr(manifest, key):
            raise UserError(
                f"config.data.{key}={data[key]!r}, but the records were made with "
                f"{getattr(manifest, key)!r}; set it so, or run data_prep again"
            )


def _with_settings_of_records(
    config: dict[str, Any], manifests: Mapping[str, Manifest]
) -> dict[str, Any]:
    """The config with the section `prep` that its records were made by, whatever it has itself.

    Of several sources each has its own, which are in the manifests.
    """
    settings = manifests[""].settings if "" in manifests else {}
    if not settings:
        return config
    own = flatten_config(json.loads(json.dumps(config.get("prep", {}))))
    others = [
        f"{key}={value!r}"
        for key, value in flatten_config(settings).items()
        if own.get(key) != value and not is_path_key(f"prep.{key}")
    ]
    if others:
        logging.info("config.prep is that of the records: %s", ", ".join(others))
    return {**config, "prep": settings}


def _record_fingerprints(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Fingerprints of every source's records."""
    return {
        f"{kind} of {name}" if name else kind: value
        for name, manifest in manifests.items()
        for kind, value in manifest.fingerprints.items()
    }


def _log_start(inputs: _Inputs, workdir: Path, parts: Parts, sources: Mapping[str, Source]) -> None:
    """Say what is about to run: what a user may want to stop it for."""
    settings = inputs.settings
    changes = changes_from_base(inputs.config, settings.whole)
    logging.info(
        "settings that are not those of configs/base.py (all are in %s):\n%s",
        workdir / CONFIG_NAME,
        changes,
    )
    for source in sources.values():
        logging.info(
            "%s: %d train lists, %d dev lists, %d passages",
            source.name,
            len(source.train),
            len(source.dev),
            len(source.passages),
        )
    logging.info(
        "%d steps of %d lists, %d an epoch; evaluation every %d steps; "
        "%d %s device(s) in %d process(es)",
        settings.train.num_steps,
        settings.data.batch_size,
        parts.batches.steps_per_epoch,
        settings.train.eval_every,
        jax.device_count(),
        jax.default_backend(),
        jax.process_count(),
    )
    logging.debug("mesh %s", dict(parts.mesh.shape))


if __name__ == "__main__":
    define_flags()
    cli.run(main, leave=processes.leave)
else:
    make_callable(__name__, train)
