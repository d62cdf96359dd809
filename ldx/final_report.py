"""How a run ends: base and trained model on human judgments, a table, a plot, results.json.

WORKDIR/report holds a TREC run of every system, and, until that is written, the embeddings of the
corpus in report/.embeddings, so a report that was killed goes on where it was;
runs that data_prep left in WORKDIR/baselines (BM25, the teacher) are scored beside them.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from ldx.checkpoint import Progress, best_params, read_progress
from ldx.data.manifest import Manifest
from ldx.data.sources import SourceConfig
from ldx.dev import METRIC as DEV_METRIC
from ldx.embedder import Params
from ldx.eval.beir import Dataset, load_dataset
from ldx.eval.metrics import (
    Run,
    Scores,
    compare,
    confidence_interval,
    read_run,
    score_run,
    write_run,
)
from ldx.eval.report import drop_self, excludes_self, retrieve
from ldx.files import atomic_write, write_json
from ldx.models.student import Student
from ldx.summaries import read_metrics

REPORT_NAME = "report.txt"
RESULTS_NAME = "results.json"
CACHE_NAME = ".embeddings"
MAX_BAD_LINES = 0.01  # of a corpus; data_prep sets as many aside
SHOWN = ("nDCG@10", "R@100")


@dataclasses.dataclass(frozen=True)
class Judged:
    """A source's collection with human judgments, and how its texts are put to the model."""

    dataset: Dataset
    passage_template: str
    query_prompt: str | None
    passage_prompt: str | None

    def student(self, student: Student) -> Student:
        """The student with the source's own prompts, where it has any."""
        own: dict[str, Any] = {
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt,
        }
        own = {name: prompt for name, prompt in own.items() if prompt is not None}
        if not own:
            return student
        config = dataclasses.replace(student.config, **own)
        return dataclasses.replace(student, config=config)


def make(
    workdir: Path,
    config: Mapping[str, Any],
    judged: Mapping[str, Judged],
    student: Student,
    check: Callable[[], None],
) -> None:
    """Print the report of a finished run, made first where it is missing."""
    path = workdir / REPORT_NAME
    if not path.exists():
        progress = read_progress(workdir)
        assert progress is not None
        plot_curves(workdir, progress)
        text = _training_text(workdir, progress)
        if not judged:
            text += "No human judgments were given, so whether it helps people is not known.\n"
        else:
            text += _judged_text(workdir, config, judged, student, progress, check)
        with atomic_write(path) as file:
            file.write(text)
    logging.info("%s", path)
    print(path.read_text(encoding="utf-8"), end="", flush=True)


def _judged_text(
    workdir: Path,
    config: Mapping[str, Any],
    judged: Mapping[str, Judged],
    student: Student,
    progress: Progress,
    check: Callable[[], None],
) -> str:
    """A table for every source that has judgments; their numbers go to results.json."""
    best, _ = best_params(workdir, student.params)
    results: dict[str, Any] = {}
    text = ""
    for name, source in judged.items():
        runs = _runs(workdir, config, name, source, student, best, progress, check)
        table, facts = _results(name or source.dataset.root.name, config, source.dataset, runs)
        text += table
        results |= {f"{name}/{system}" if name else system: f for system, f in facts.items()}
    write_json(workdir / RESULTS_NAME, results)
    return text


def judged_datasets(
    workdir: Path,
    config: Mapping[str, Any],
    sources: Mapping[str, SourceConfig],
    manifests: Mapping[str, Manifest],
) -> dict[str, Judged]:
    """The collections that the report will be on: those with judgments of `config.eval.split`.

    Raises:
      UserError: a collection cannot be read.
    """
    split = config["eval"]["split"]
    judged = {}
    for name, source in sources.items() if split else ():
        root = Path(source.root if name else config["data"]["root"] or workdir / "dataset")
        if name and not source.root:
            continue
        if not any((root / "qrels").glob(f"{split}.*")):
            logging.warning(
                "no %s/qrels/%s.tsv: the report will have no human judgments of it", root, split
            )
            continue
        template = manifests[name].passage_template
        dataset = load_dataset(root, split, max_bad=MAX_BAD_LINES)
        judged[name] = Judged(dataset, template, source.query_prompt, source.passage_prompt)
    return judged


def _training_text(workdir: Path, progress: Progress) -> str:
    """What training did, in a few lines."""
    values = {line["step"]: line[f"dev/{DEV_METRIC}"] for line in _dev_lines(workdir)}
    before, best = values[0], values[progress.best_step]
    lines = [f"training ended at step {progress.step}: {progress.stop_reason}"]
    if progress.best_step == 0:
        lines.append(
            f"no step was better than the base model on dev ({DEV_METRIC} {before:.4f}): "
            "the base model is what is kept"
        )
    else:
        lines.append(f"best step {progress.best_step}: dev {DEV_METRIC} {before:.4f} -> {best:.4f}")
    return "\n".join(lines) + "\n"


def _dev_lines(workdir: Path) -> list[dict[str, float]]:
    return [line for line in read_metrics(workdir) if f"dev/{DEV_METRIC}" in line]


def _runs(
    workdir: Path,
    config: Mapping[str, Any],
    name: str,
    source: Judged,
    student: Student,
    best: Params,
    progress: Progress,
    check: Callable[[], None],
) -> dict[str, Run]:
    """The runs of base, trained and baselines on a source; each is made once."""
    runs: dict[str, Run] = {}
    tokens = config["train"]["microbatch_tokens"]
    dataset, folder = source.dataset, workdir / "report" / name
    for system, params in (("base", student.params), ("trained", best)):
        path = folder / f"{system}.trec"
        if system == "trained" and progress.best_step == 0:
            runs[system] = runs["base"]
            continue
        if not path.exists():
            logging.info("evaluating the %s model on %s", system, dataset.root)
            run, facts = retrieve(
                dataset,
                source.student(student),
                params,
                index=config["eval"]["index"],
                template=source.passage_template,
                microbatch_tokens=tokens if isinstance(tokens, int) else None,
                cache=folder / CACHE_NAME,
                check=check,
            )
            write_run(path, run, tag=system)
            shutil.rmtree(folder / CACHE_NAME, ignore_errors=True)
            write_json(path.with_suffix(".json"), facts)
        runs[system] = read_run(path)
    baselines = [] if name else sorted((workdir / "baselines").glob("*.trec"), reverse=True)
    for path in baselines:
        run = read_run(path)
        if not run.keys() & dataset.qrels.keys():
            logging.warning("%s has no query of %s; it is left out", path, dataset.split)
            continue
        runs[path.stem] = drop_self(run) if excludes_self(dataset) else run
    return runs


def _results(
    name: str, config: Mapping[str, Any], dataset: Dataset, runs: Mapping[str, Run]
) -> tuple[str, dict[str, Any]]:
    """The table of all runs, and its numbers."""
    level = config["eval"]["relevance_level"]
    scores = {
        system: score_run(dataset.qrels, run, relevance_level=level) for system, run in runs.items()
    }
    results: dict[str, Any] = {
        system: _facts(each, scores["base"]) for system, each in scores.items()
    }
    title = f"{name} {dataset.split}: {len(dataset.qrels)} queries, {len(dataset.corpus)} passages"
    return f"\n{title}\n{_table(results)}\n", results


def _facts(scores: Scores, base: Scores) -> dict[str, Any]:
    """Metrics of a system, its interval, and how it differs from the base model."""
    metric = SHOWN[0]
    facts: dict[str, Any] = dict(scores.mean)
    facts[f"{metric}_interval"] = confidence_interval(scores.per_query[metric].values())
    if scores is not base:
        result = compare(scores.per_query[metric], base.per_query[metric])
        facts[f"{metric}_difference"] = result.difference
        facts[f"{metric}_difference_interval"] = (result.low, result.high)
        facts["p_value"] = result.p_value
        facts |= {"wins": result.wins, "losses": result.losses, "ties": result.ties}
    return facts


def _table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Systems by row; intervals are 95%, p is of the paired permutation test against base."""
    metric = SHOWN[0]
    head = f"{'':8}  {metric:7}  {'95% interval':16}  {SHOWN[1]:6}  {'against base':24}  p"
    lines = [head]
    for name, facts in results.items():
        low, high = facts[f"{metric}_interval"]
        line = f"{name:8}  {facts[metric]:.4f}   [{low:.4f}, {high:.4f}]  {facts[SHOWN[1]]:.4f}"
        if "p_value" in facts:
            low, high = facts[f"{metric}_difference_interval"]
            change = f"{facts[f'{metric}_difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
            line += f"  {change:24}  {facts['p_value']:.4f}"
        lines.append(line)
    return "\n".join(lines)


def plot_curves(workdir: Path, progress: Progress) -> None:
    """WORKDIR/report/curves.png: losses and dev nDCG@10 by step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    train = [line for line in read_metrics(workdir) if "learning_rate" in line]
    dev = _dev_lines(workdir)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot([x["step"] for x in train], [x["total"] for x in train], label="train", alpha=0.6)
    left.plot([x["step"] for x in dev], [x["dev/total"] for x in dev], "o-", label="dev")
    left.set(xlabel="step", ylabel="loss", title="Total loss")
    left.legend()
    values = [x[f"dev/{DEV_METRIC}"] for x in dev]
    right.plot([x["step"] for x in dev], values, "o-", color="C1")
    right.axhline(values[0], color="grey", linestyle=":", label="base model")
    right.plot(progress.best_step, progress.best_ndcg, "*", color="C2", markersize=14, label="best")
    right.set(xlabel="step", ylabel=DEV_METRIC, title=f"Dev {DEV_METRIC}")
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    path = workdir / "report" / "curves.png"
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=120, format="png")
    plt.close(figure)
