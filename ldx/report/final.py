"""How a run ends: base and trained model on human judgments, tables, results.json, a page.

WORKDIR/report holds a TREC run of base and trained model. Until a run is written, the embeddings of
its corpus are in report/.embeddings, so that a report that was killed goes on where it was. Runs
that data_prep left in WORKDIR/baselines (BM25, the teacher) are scored beside them. The page
(`ldx.report.page`) comes last, and its failure does not cost the numbers.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, read_json, write_json
from ldx.data.sources import SourceConfig, source_configs
from ldx.eval.beir import Dataset, load_dataset, qrels_files
from ldx.eval.metrics import METRIC, Run, read_run, write_run
from ldx.eval.report import (
    BASE,
    RESULTS_NAME,
    TRAINED,
    Facts,
    Outcome,
    facts_by_system,
    format_table,
    score_runs,
)
from ldx.models.student import Student
from ldx.models.towers import Towers
from ldx.parallel.processes import is_primary
from ldx.records.manifest import Manifest
from ldx.report.common import PAGE_NAME, REPORT_FOLDER
from ldx.report.human_judgments import NO_JUDGMENTS
from ldx.report.page import FinishedRun, make_page
from ldx.retrieval.retrieve import CACHE_NAME, drop_self, excludes_self, retrieve
from ldx.retrieval.store import get_store
from ldx.training.checkpoint import Progress, read_progress
from ldx.training.metrics_writer import read_metrics
from ldx.training.model import best_towers
from ldx.training.variants import read_tried
from ldx.training.verdict import Verdict

REPORT_NAME = "report.txt"
TABLE_METRICS = (METRIC, "R@100")


@dataclasses.dataclass(frozen=True)
class JudgedCollection:
    """A source's collection with human judgments, and how its texts are put to the model."""

    dataset: Dataset
    collection: str
    passage_template: str
    query_prompt: str | None
    passage_prompt: str | None


def make(
    workdir: Path,
    config: Mapping[str, Any],
    judged: Mapping[str, JudgedCollection],
    student: Student,
    check: Callable[[], None],
    verdict: Verdict | None = None,
) -> None:
    """Make the report of a finished run, and its page, where they are missing.

    Args:
      workdir: the run's folder.
      config: the whole config.
      judged: the collections that people judged, by source.
      student: the model; its parameters are the base model's.
      check: called between micro-batches; what it raises ends the work.
      verdict: whether training helped, which is the last line of the report.
    """
    path = workdir / REPORT_NAME
    progress = read_progress(workdir)
    assert progress is not None
    work = _Work(workdir, config, judged, student, progress, check)
    if not path.exists():
        text = _training_text(workdir, progress)
        if not judged:
            text += f"{NO_JUDGMENTS}\n"
        else:
            write_json(workdir / RESULTS_NAME, facts_by_system(work.outcomes))
            text += "".join(map(_tables, work.outcomes))
        if verdict is not None:
            text += f"\nVerdict: {verdict.text}\n"
            text += "".join(f"Advice: {each}\n" for each in verdict.advice)
        with atomic_write(path) as file:
            file.write(text)
    page = workdir / REPORT_FOLDER / PAGE_NAME
    if not page.exists():
        _make_page(work, verdict)


def _make_page(work: "_Work", verdict: Verdict | None) -> None:
    """Make the page; where that fails, the run has its numbers all the same."""
    workdir, data = work.workdir, work.config["data"]
    try:
        sources = source_configs(data, workdir)
        manifests = {name: Manifest.read(source.records) for name, source in sources.items()}
        best = None if work.progress.best_step == 0 else lambda: work.best
        make_page(
            FinishedRun(
                workdir, work.config, work.progress, work.student, best, sources, manifests,
                work.outcomes, verdict,
            ),
            work.check,
        )  # fmt: skip
    except Exception as error:
        logging.warning(
            "%s could not be made; the same command tries again: %s: %s",
            *(workdir / REPORT_FOLDER / PAGE_NAME, type(error).__name__, error),
            exc_info=True,  # this is not the user's mistake, so the place in the code matters
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """What a report is made of; what takes long is made at its first use."""

    workdir: Path
    config: Mapping[str, Any]
    judged: Mapping[str, JudgedCollection]
    student: Student
    progress: Progress
    check: Callable[[], None]

    @functools.cached_property
    def best(self) -> Towers:
        """The parameters of the best step."""
        return best_towers(self.workdir, self.config, self.student)[0]

    @functools.cached_property
    def outcomes(self) -> list[Outcome]:
        """The results of every system on the judgments of every source."""
        level = self.config["eval"]["relevance_level"]
        return [
            score_runs(
                name,
                source.dataset,
                _runs(self, name, source),
                level,
                source.collection,
                _searched(self.workdir / REPORT_FOLDER / name),
            )
            for name, source in self.judged.items()
        ]


def judged_datasets(
    workdir: Path,
    config: Mapping[str, Any],
    sources: Mapping[str, SourceConfig],
    manifests: Mapping[str, Manifest],
) -> dict[str, JudgedCollection]:
    """The collections of the report, by source: those with judgments of `config.eval.split`.

    Raises:
      UserError: a collection cannot be read.
    """
    split = config["eval"]["split"]
    # Only the process that makes the report needs the collection; a run that has begun goes on
    # without it.
    is_new = is_primary() and read_progress(workdir) is None
    judged = {}
    for name, source in sources.items() if split else ():
        root = Path(source.root if name else config["data"]["root"] or workdir / "dataset")
        if name and not source.root:
            continue
        if (name or config["data"]["root"]) and not root.is_dir() and is_new:
            key = f"data.sources.{name}.root" if name else "data.root"
            raise UserError(
                f"config.{key}={root}: no such folder; wanted the collection, for the report at "
                "the end (--config.eval.split= switches the report's judgments off)"
            )
        if split not in qrels_files(root):
            logging.warning(
                "no %s/qrels/%s.tsv: the report will have no human judgments of it", root, split
            )
            continue
        manifest = manifests[name]
        judged[name] = JudgedCollection(
            load_dataset(root, split, max_bad=config["prep"]["max_rejects"]),
            manifest.collection,
            manifest.passage_template,
            source.query_prompt,
            source.passage_prompt,
        )
    return judged


def _training_text(workdir: Path, progress: Progress) -> str:
    """The course of training in a few lines."""
    values = {line["step"]: line[f"dev/{METRIC}"] for line in _dev_lines(workdir)}
    before, best = values[0], values[progress.best_step]
    lines = [f"training ended at step {progress.step}: {progress.stop_reason}"]
    if progress.best_step == 0:
        lines.append(f"the base model is what is kept: dev {METRIC} {before:.4f}")
    else:
        lines.append(f"best step {progress.best_step}: dev {METRIC} {before:.4f} -> {best:.4f}")
    tried = read_tried(workdir)
    if tried.kept:
        lines.append(f"dev {METRIC}: {tried.text}")
    return "\n".join(lines) + "\n"


def _tables(outcome: Outcome) -> str:
    """All systems on a collection, by the metrics that people look at first."""
    tables = [
        format_table(metric, {name: each[metric] for name, each in outcome.results.items()})
        for metric in TABLE_METRICS
    ]
    return "\n".join(["", outcome.title, *tables, ""])


def _dev_lines(workdir: Path) -> list[dict[str, float]]:
    return [line for line in read_metrics(workdir) if f"dev/{METRIC}" in line]


def _searched(folder: Path) -> dict[str, Facts]:
    """How the passages of each model were searched, as its run's facts have it."""
    paths = {system: folder / f"{system}.json" for system in (BASE, TRAINED)}
    return {system: read_json(path) for system, path in paths.items() if path.is_file()}


def _runs(work: _Work, name: str, source: JudgedCollection) -> dict[str, Run]:
    """The runs of base, trained model and baselines on a source; each is made once."""
    runs: dict[str, Run] = {}
    config, student = work.config, work.student
    tokens = config["train"]["microbatch_tokens"]
    dataset, folder = source.dataset, work.workdir / REPORT_FOLDER / name
    for system in (BASE, TRAINED):
        path = folder / f"{system}.trec"
        if system == TRAINED and work.progress.best_step == 0:
            runs[system] = runs[BASE]
            continue
        if not path.exists():
            logging.info("evaluating the %s model on %s", system, dataset.root)
            run, facts = retrieve(
                dataset,
                student.with_prompts(source.query_prompt, source.passage_prompt),
                Towers.of(student.params) if system == BASE else work.best,
                index=config["eval"]["index"],
                template=source.passage_template,
                microbatch_tokens=tokens if isinstance(tokens, int) else None,
                store=get_store(work.workdir),
                cache=folder / CACHE_NAME,
                check=work.check,
            )
            write_json(path.with_suffix(".json"), facts)
            write_run(path, run, tag=system)
            shutil.rmtree(folder / CACHE_NAME, ignore_errors=True)
        runs[system] = read_run(path)
    baselines = [] if name else sorted((work.workdir / "baselines").glob("*.trec"), reverse=True)
    for path in baselines:
        if not path.stat().st_size:
            logging.warning("%s found nothing for any query; it is left out", path.stem)
            continue
        run = read_run(path)
        if not run.keys() & dataset.qrels.keys():
            logging.warning("%s has no query of %s; it is left out", path, dataset.split)
            continue
        runs[path.stem] = drop_self(run) if excludes_self(dataset) else run
    return runs
