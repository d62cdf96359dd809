"""The course of a study from declaration to report; what is done already is not done again.

DIR/config.json                    the study as declared
DIR/collections/                   samples of collections
DIR/data/NAME-KEY/                 training lists, each a workdir of data_prep
DIR/tokens/                        tokenised texts, of all cells
DIR/embeddings/                    embeddings of texts, of all preparations and cells
DIR/cells/VALUE--...--seedN--KEY/  a training run; log.txt has its output
DIR/study.{json,csv,txt}, index.html
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, fingerprint, folder_path, write_json
from ldx.common.interrupt import StopRequest
from ldx.common.locks import hold_folder
from ldx.common.sections import flatten_config
from ldx.eval.beir import Qrels
from ldx.report.common import REPORT_FOLDER
from ldx.retrieval.store import STORE_NAME
from ldx.studies.declare import AUTO, Cell, Study, expand, read_study
from ldx.studies.experiment import EXPERIMENT_NAME, canonical, write_experiment
from ldx.studies.jobs import Job, JobRunner, auto_max_parallel
from ldx.studies.page import write_page
from ldx.studies.preparation import Preparation, begin_from_another, prepared_for, share_folder
from ldx.studies.results import CellResult, read_cell, summarize
from ldx.studies.samples import (
    check_samples,
    collection_fingerprint,
    find_root,
    read_judgments,
    sample_collection,
)
from ldx.studies.tables import as_csv, as_text
from ldx.training.settings import MAY_DIFFER

BASE_FACTS = "base.json"
BASE_RUN = "base.trec"
"""The run of the base model in CELL/report, which is written last, after BASE_FACTS."""


@dataclasses.dataclass(frozen=True)
class Commands:
    """The programs of a study; --config and --workdir are added."""

    prepare: Sequence[str] = (sys.executable, "-m", "data_prep.run")
    train: Sequence[str] = (sys.executable, "-m", "ldx.train")


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedCell:
    """A cell with its folder and the preparation that it needs."""

    cell: Cell
    folder: Path
    preparation: Preparation

    @property
    def experiment(self) -> dict[str, Any]:
        """The config of the training run."""
        preparation = self.preparation
        paths = {"root": str(preparation.dataset), "records": str(preparation.records)}
        return {**self.cell.config, "data": {**self.cell.config["data"], **paths}}

    @property
    def base_key(self) -> str:
        """A key that is equal where the evaluation of the base model is; lists must be prepared."""
        config = self.cell.config
        model = {k: v for k, v in config["model"].items() if f"model.{k}" not in MAY_DIFFER}
        texts = [config["data"]["passage_template"], config["eval"]["split"]]
        return fingerprint(
            collection_fingerprint(self.preparation.dataset),
            canonical([model, texts, config["eval"]["index"]]),
        )


def run_study(
    config: Mapping[str, Any], workdir: Path, commands: Commands | None = None
) -> dict[str, Any]:
    """Do what is missing of a study, and write its report.

    Args:
      config: the whole config as plain values, with the section `study`.
      workdir: DIR.
      commands: the programs that prepare and train.

    Returns:
      What DIR/study.json holds.

    Raises:
      UserError: the declaration is wrong, before anything is done; or cells failed, after the
        others were done and reported.
      Interrupted: a stop was asked for; the running cells saved their state.
    """
    study = read_study(config)
    cells = expand(study)
    check_samples(cells)
    roots = {root: find_root(root, study.roots) for root in _roots_of(cells)}
    workdir = folder_path("workdir", workdir).absolute()
    stop = StopRequest()
    with hold_folder(workdir, "ldx.study", wait=True) as lock, stop:
        planned = _plan(study, cells, roots, workdir, stop)
        write_json(workdir / "config.json", config)
        _log_left_over(workdir, planned)
        parallel = study.max_parallel
        if not isinstance(parallel, int):
            assert parallel == AUTO
            parallel = auto_max_parallel(study.memory_per_run)
        logging.info("%s: %d cells, %d at a time", study.name, len(planned), parallel)
        runner = JobRunner(_jobs(planned, commands or Commands(), workdir), parallel, stop, lock)
        runner.run()
        summary = _report(study, planned, runner.failed, workdir, stop)
    if summary["failed"]:
        reasons = "\n".join(f"{name}: {why}" for name, why in summary["failed"].items())
        num_failed = len(planned) - len(summary["cells"])
        raise UserError(
            f"{num_failed} of {len(planned)} cells have no result:\n{reasons}\n"
            "The same command tries them again, and does nothing else again"
        )
    return summary


def _roots_of(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.config["data"]["root"] for cell in cells))


def _plan(
    study: Study, cells: Sequence[Cell], roots: Mapping[str, str], workdir: Path, stop: StopRequest
) -> list[PlannedCell]:
    """The folder and the preparation of every cell; equal preparations are one object."""
    preparations: dict[Path, Preparation] = {}
    planned = []
    for cell in cells:
        stop.check()
        root = sample_collection(
            roots[cell.config["data"]["root"]],
            cell.config["eval"]["split"],
            cell.sample,
            workdir / "collections",
        )
        seed = cell.seed if study.prepare_each_seed else study.seeds[0]
        preparation = prepared_for(cell, root, seed, workdir / "data")
        preparation = preparations.setdefault(preparation.folder, preparation)
        folder = workdir / "cells" / f"{cell.name}--{_cell_key(cell, preparation)}"
        planned.append(PlannedCell(cell, folder, preparation))
    return planned


def _cell_key(cell: Cell, preparation: Preparation) -> str:
    """A key of all settings that a training run must keep when it goes on."""
    paths = ("data.root", "data.records")
    settings = {
        key: value
        for key, value in flatten_config(cell.config).items()
        if not key.startswith(MAY_DIFFER) and key not in paths
    }
    return fingerprint(canonical(settings), preparation.name)[:8]


def _log_left_over(workdir: Path, planned: Sequence[PlannedCell]) -> None:
    """Say that cells of an earlier declaration stay, and are no part of the report."""
    folders = {each.folder for each in planned}
    others = [path for path in (workdir / "cells").glob("*") if path not in folders]
    if others:
        logging.info(
            "%d cells in %s are of other settings and no part of the report, such as %s",
            *(len(others), workdir / "cells", others[0].name),
        )


def _jobs(planned: Sequence[PlannedCell], commands: Commands, workdir: Path) -> list[Job]:
    """The jobs of all preparations and cells; every cell comes after its preparation."""
    jobs: dict[str, Job] = {}
    preparations = list({id(each.preparation): each.preparation for each in planned}.values())
    first_of_corpus: dict[str, str] = {}
    for each in planned:
        preparation = each.preparation
        if preparation.name not in jobs:
            # The first preparation of a corpus embeds it; the others begin as copies.
            first = first_of_corpus.setdefault(preparation.corpus, preparation.name)
            jobs[preparation.name] = Job(
                preparation.name,
                "data",
                _command(commands.prepare, preparation.folder),
                preparation.folder,
                after=() if first == preparation.name else (first,),
                before=functools.partial(begin_from_another, preparation, preparations, workdir),
            )
        jobs[each.cell.name] = Job(
            each.cell.name,
            "cell",
            _command(commands.train, each.folder),
            each.folder,
            needs=(preparation.name,),
            before=functools.partial(_make_ready, each, planned, workdir),
        )
    return list(jobs.values())


def _command(program: Sequence[str], folder: Path) -> list[str]:
    return [*program, f"--config={folder / EXPERIMENT_NAME}", f"--workdir={folder}"]


def _make_ready(planned: PlannedCell, others: Sequence[PlannedCell], workdir: Path) -> None:
    """Put into a cell's folder what others have made, such as the base model's run."""
    folder = planned.folder
    write_experiment(folder, planned.experiment)
    copy_baselines(planned.preparation.folder, folder)
    for name in ("tokens", STORE_NAME):
        share_folder(workdir, folder, name)
    report = folder / REPORT_FOLDER
    if (report / BASE_RUN).exists():
        return
    key = planned.base_key
    for other in others:
        paths = [other.folder / REPORT_FOLDER / name for name in (BASE_FACTS, BASE_RUN)]
        if all(path.exists() for path in paths) and other.base_key == key:
            for path in paths:
                _copy(path, report / path.name)
            return


def copy_baselines(preparation: Path, cell: Path) -> None:
    """Give a cell the runs of its preparation, and no others."""
    runs = {path.name: path for path in preparation.glob("baselines/*.trec")}
    for path in cell.glob("baselines/*.trec"):
        if path.name not in runs:
            path.unlink()
    for name, path in runs.items():
        _copy(path, cell / "baselines" / name)


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target, "wb") as file:
        file.write(source.read_bytes())


def _report(
    study: Study,
    planned: Sequence[PlannedCell],
    failed: Mapping[str, str],
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    """Read the finished cells, and write and print the report."""
    qrels: dict[tuple[Path, str], Qrels] = {}
    results: list[CellResult] = []
    problems = {each.cell.name: failed.get(each.cell.name, "") for each in planned}
    for each in planned:
        stop.check()
        if problems[each.cell.name]:
            continue
        key = each.preparation.dataset, each.cell.config["eval"]["split"]
        try:
            if key not in qrels:
                qrels[key] = read_judgments(*key)
            records = each.preparation.records
            results.append(read_cell(each.cell, each.folder, records, qrels[key], study.metric))
        except UserError as error:
            problems[each.cell.name] = str(error)
    preparations = {each.preparation.name for each in planned}
    causes = {name: why for name, why in failed.items() if name in preparations}
    summary = summarize(study, results, causes | {k: v for k, v in problems.items() if v})
    write_json(workdir / "study.json", summary)
    for name, text in (("study.csv", as_csv(summary)), ("study.txt", as_text(summary))):
        with atomic_write(workdir / name) as file:
            file.write(text)
    write_page(workdir / "index.html", summary)
    print(as_text(summary), flush=True)
    logging.info("%s", workdir / "index.html")
    return summary
