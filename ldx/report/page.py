"""The report of a run as one HTML page, WORKDIR/report/index.html, and its data beside it.

results.csv, per_query.csv, dev_lists.csv and steps.csv hold the numbers of the tables and plots,
and data.json the summaries; dev_scores.npz is made once.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, write_json
from ldx.data.sources import SourceConfig
from ldx.eval.metrics import METRIC
from ldx.eval.report import CHANGE_NAMES, Outcome, facts_by_system
from ldx.models.card import base_name
from ldx.models.student import Student
from ldx.models.towers import Towers
from ldx.records.manifest import Manifest
from ldx.report import curves, human_judgments, plots
from ldx.report.common import PAGE_NAME, REPORT_FOLDER, NoData, section_or_note
from ldx.report.dev_lists import (
    MEASURES,
    DevLists,
    entropy_section,
    measure,
    scores_section,
    summary,
    types_section,
)
from ldx.report.dev_scores import SYSTEMS, make_dev_scores
from ldx.report.html import Html, element, join, note, page, paragraph
from ldx.report.training_data import data_section, settings_section, versions
from ldx.retrieval.store import get_store
from ldx.training.checkpoint import Progress
from ldx.training.cut import read_cut
from ldx.training.dev_values import read_dev_values
from ldx.training.leakage import read_leakage
from ldx.training.metrics_writer import read_metrics
from ldx.training.variants import read_tried
from ldx.training.verdict import Verdict


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What the page is made of.

    Attributes:
      workdir: the run's folder.
      config: the whole config.
      progress: where the run ended.
      student: the model; `student.params` are the base model's.
      best: a function that gives the kept parameters; None where they are the base model's.
      sources: by name, "" for the only one.
      manifests: those of the sources' records, by source.
      outcomes: the results on the sources that people judged.
      verdict: whether training helped.
    """

    workdir: Path
    config: Mapping[str, Any]
    progress: Progress
    student: Student
    best: Callable[[], Towers] | None
    sources: Mapping[str, SourceConfig]
    manifests: Mapping[str, Manifest]
    outcomes: Sequence[Outcome]
    verdict: Verdict | None = None

    @property
    def folder(self) -> Path:
        """The folder of the page."""
        return self.workdir / REPORT_FOLDER


def make_page(run: FinishedRun, check: Callable[[], None] = lambda: None) -> Path:
    """Write the page and its data; a section that cannot be made says why in a line.

    Args:
      run: what the page is made of.
      check: called while the dev lists are scored; what it raises ends the work.

    Returns:
      The page's path. It is written last.
    """
    lines = read_metrics(run.workdir)
    dev, problems = _dev_lists(run, check)
    level = run.config["eval"]["relevance_level"]
    builders = {
        "Human judgments": lambda: human_judgments.table_section(run.outcomes),
        "Training": lambda: _training(run, lines),
        "Queries won and lost": lambda: human_judgments.changes_section(run.outcomes, level),
        "Query types": lambda: _of_dev(types_section, dev, problems),
        "Student and teacher": lambda: _of_dev(scores_section, dev, problems),
        "Entropy of the lists": lambda: _of_dev(entropy_section, dev, problems),
        "Distinct passages and time": lambda: curves.work_section(lines, run.workdir),
        "Training data": lambda: data_section(
            run.manifests, read_leakage(run.workdir), read_cut(run.workdir)
        ),
        "Settings and versions": lambda: settings_section(run.config, run.manifests),
    }
    sections = [
        section_or_note(f"{number}. {title}", build)
        for number, (title, build) in enumerate(builders.items(), 1)
    ]
    _write_curves(run, lines)
    _write_data(run, dev, lines)
    path = run.folder / PAGE_NAME
    with atomic_write(path) as file:
        file.write(page(_title(run), _lead(run), sections))
    return path


def _training(run: FinishedRun, lines: Sequence[Mapping[str, Any]]) -> Html:
    """The curves, and whose judgments dev nDCG@10 is of, where the run has noted that."""
    body = curves.curves_section(lines, run.progress, METRIC)
    try:
        base, judged_by = read_dev_values(run.workdir, 0)
    except UserError:
        return body
    mean = sum(base.values()) / len(base)
    alphas = curves.alpha_section(read_tried(run.workdir), mean, METRIC)
    return join([body, alphas, note(f"Dev {METRIC} is of {judged_by}.")])


def _title(run: FinishedRun) -> str:
    collections = ", ".join(name or m.collection for name, m in run.manifests.items())
    model = base_name(str(run.config["model"]["path"])).partition("==")[0]
    return f"{model}, trained for {collections}"


def _lead(run: FinishedRun) -> Html:
    """The verdict, and what human judgments say."""
    lines = [paragraph(human_judgments.sentence(outcome)) for outcome in run.outcomes]
    if not run.outcomes:
        lines = [paragraph(human_judgments.NO_JUDGMENTS)]
    if run.verdict is None:
        return element("div", *lines, class_="verdict")
    status = run.verdict.status
    head = [paragraph(element("strong", "Verdict: "), run.verdict.text)]
    for advice in run.verdict.advice:
        head.append(paragraph(element("strong", "Advice: "), advice))
    return element("div", *head, *lines, class_=f"verdict {status.replace(' ', '-')}")


def _of_dev(
    make: Callable[[Sequence[DevLists]], Html], dev: Sequence[DevLists], problems: Sequence[str]
) -> Html:
    """A section on the sources that could be scored, and the reasons why others could not."""
    if not dev:
        raise NoData(" ".join(problems))
    return join([make(dev), *map(note, problems)])


def _dev_lists(run: FinishedRun, check: Callable[[], None]) -> tuple[list[DevLists], list[str]]:
    """The measures of every source's dev lists, and why sources without any have none."""
    measured, problems = [], []
    tokens = run.config["train"]["microbatch_tokens"]
    for name, source in run.sources.items():
        manifest = run.manifests[name]
        title = name or manifest.collection
        try:
            scores = make_dev_scores(
                run.folder / name,
                source.records,
                manifest,
                run.student.with_prompts(source.query_prompt, source.passage_prompt),
                {"base": lambda: Towers.of(run.student.params), "trained": run.best},
                list_size=run.config["data"]["list_size"],
                microbatch_tokens=tokens if isinstance(tokens, int) else None,
                store=get_store(run.workdir),
                description=title,
                check=check,
            )
            measured.append(measure(title, scores, run.config["loss"]))
        except Exception as error:  # the other sections are worth having
            problem = f"The dev lists of {title} could not be scored: {error}"
            logging.warning("%s", problem)
            problems.append(problem)
    return measured, problems


def _write_curves(run: FinishedRun, lines: Sequence[Mapping[str, Any]]) -> None:
    path = run.folder / "curves.png"
    try:
        plots.write_png(lambda: curves.curves_figure(lines, run.progress, METRIC), path)
    except Exception as error:  # a plot that fails must not cost the page
        logging.warning("%s could not be made: %s: %s", path, type(error).__name__, error)


def _write_data(
    run: FinishedRun, dev: Sequence[DevLists], lines: Sequence[Mapping[str, Any]]
) -> None:
    """Write everything that the page shows as numbers."""
    verdict = run.verdict and {
        key: getattr(run.verdict, key) for key in ("status", "text", "advice")
    }
    value = {
        "verdict": verdict,
        "stop_reason": run.progress.stop_reason,
        "step": run.progress.step,
        "best_step": run.progress.best_step,
        "evaluations": curves.dev_lines(lines, METRIC),
        "results": facts_by_system(run.outcomes),
        "dev_lists": {lists.title: summary(lists) for lists in dev},
        "versions": versions(),
        "cut": {name: [vars(cut) for cut in each] for name, each in read_cut(run.workdir).items()},
        "leakage": {name: vars(each) for name, each in read_leakage(run.workdir).items()},
        "records": {name or m.collection: m.provenance() for name, m in run.manifests.items()},
    }
    write_json(run.folder / "data.json", value)
    _write_csv(run.folder / "results.csv", _result_rows(run.outcomes))
    _write_csv(run.folder / "per_query.csv", _query_rows(run.outcomes))
    _write_csv(run.folder / "dev_lists.csv", _list_rows(dev))
    _write_csv(run.folder / "steps.csv", _step_rows(lines))


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with atomic_write(path) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _result_rows(outcomes: Sequence[Outcome]) -> Iterable[Sequence[object]]:
    yield ["source", "system", "metric", "value", "low", "high", *CHANGE_NAMES]
    for outcome in outcomes:
        for system, results in outcome.results.items():
            for metric, result in results.items():
                change = result.change
                yield [
                    *(outcome.name, system, metric, result.value, result.low, result.high),
                    *(astuple(change) if change else [""] * len(CHANGE_NAMES)),
                ]


def _query_rows(outcomes: Sequence[Outcome]) -> Iterable[Sequence[object]]:
    systems = list(dict.fromkeys(system for outcome in outcomes for system in outcome.scores))
    yield ["source", "query_id", *systems]
    for outcome in outcomes:
        values = {system: scores.per_query[METRIC] for system, scores in outcome.scores.items()}
        for query in outcome.dataset.qrels:
            yield [outcome.name, query, *(values[s][query] if s in values else "" for s in systems)]


def _list_rows(dev: Sequence[DevLists]) -> Iterable[Sequence[object]]:
    columns = [f"{key}_{system}" for key in MEASURES for system in SYSTEMS]
    yield ["source", "list_id", "query_type", "list_size", *columns, "entropy_teacher"]
    for lists in dev:
        table = lists.dev.table
        values = [lists.by_system[system][key] for key in MEASURES for system in SYSTEMS]
        numbers = np.stack([*values, lists.teacher_entropy], axis=1).tolist()
        for i, list_id in enumerate(table.list_ids):
            kind = table.query_types[table.query_type[i]]
            cells = ["" if value != value else value for value in numbers[i]]
            yield [lists.title, list_id, kind, table.sizes[i], *cells]


def _step_rows(lines: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    train = curves.train_lines(lines)
    names = list(dict.fromkeys(name for line in train for name in line))
    yield names
    for line in train:
        yield [line.get(name, "") for name in names]
