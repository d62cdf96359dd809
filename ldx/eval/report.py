"""What runs score on a collection: metrics, intervals, tests against a base, tables, files.

metrics.json of `ldx.evaluate` and results.json of a training run have the same names of numbers,
which `MetricResult.facts` gives them; docs/report.md lists the names.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, folder_path, read_json, write_json
from ldx.eval.beir import Dataset
from ldx.eval.metrics import (
    METRIC,
    METRICS,
    Comparison,
    Run,
    Scores,
    compare,
    confidence_interval,
    score_run,
    write_run,
)

BASE = "base"
TRAINED = "trained"
RESULTS_NAME = "results.json"

CHANGE_NAMES = (
    *("difference", "difference_low", "difference_high"),
    *("p_value", "t_test_p_value", "wins", "losses", "ties"),
)
"""The fields of `Comparison`, in their order, as files name them."""

Facts = dict[str, float | int | str]
"""Metrics, counts and settings by name, in one flat dict."""


@dataclasses.dataclass(frozen=True)
class MetricResult:
    """What a system scores by one metric.

    Attributes:
      value: the mean over all judged queries.
      low: the lower end of its 95% bootstrap interval.
      high: the upper end of that interval.
      baseline: the value of the base; None where there is no base to compare with.
      change: how the system differs from the base; None where there is no base.
    """

    value: float
    low: float
    high: float
    baseline: float | None = None
    change: Comparison | None = None

    def facts(self, metric: str) -> Facts:
        """All numbers, under names that begin with the metric's."""
        facts: Facts = {metric: self.value, f"{metric}_low": self.low, f"{metric}_high": self.high}
        if self.baseline is not None and self.change is not None:
            facts[f"{metric}_baseline"] = self.baseline
            values = dataclasses.astuple(self.change)
            facts |= {f"{metric}_{k}": v for k, v in zip(CHANGE_NAMES, values, strict=True)}
        return facts


Results = dict[str, MetricResult]
"""What one system scores, by metric."""


def summarize(scores: Scores, base: Scores | None = None) -> Results:
    """Metrics and their intervals and, where a base is given, the paired comparison with it."""
    results = {}
    for metric in METRICS:
        values = scores.per_query[metric]
        low, high = confidence_interval(values.values())
        results[metric] = MetricResult(scores.mean[metric], low, high)
        if base is not None:
            results[metric] = dataclasses.replace(
                results[metric],
                baseline=base.mean[metric],
                change=compare(values, base.per_query[metric]),
            )
    return results


def flat(results: Results) -> Facts:
    """The facts of all metrics of a system."""
    facts: Facts = {}
    for metric, result in results.items():
        facts |= result.facts(metric)
    return facts


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Base, trained model and baselines on one collection.

    Attributes:
      name: the name of the source; "" where there is only one.
      collection: the name by which people know the collection.
      dataset: its passages, queries and judgments.
      runs: the runs by system, base first.
      scores: the metrics of every query, by system.
      results: the metrics of every system, compared with the base.
      searched: how the passages of a system were searched, where this is known.
    """

    name: str
    collection: str
    dataset: Dataset
    runs: Mapping[str, Run]
    scores: Mapping[str, Scores]
    results: Mapping[str, Results]
    searched: Mapping[str, Facts] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """The collection's name and sizes."""
        dataset = self.dataset
        return (
            f"{self.collection} {dataset.split}: {len(dataset.qrels)} queries, "
            f"{len(dataset.corpus)} passages"
        )


def score_runs(
    name: str,
    dataset: Dataset,
    runs: Mapping[str, Run],
    relevance_level: int,
    collection: str = "",
    searched: Mapping[str, Facts] = types.MappingProxyType({}),
) -> Outcome:
    """Score the runs of all systems, among them the base model, on the collection of a source.

    Args:
      name: the name of the source; "" where there is only one.
      dataset: its collection.
      runs: the runs by system.
      relevance_level: the least grade that is relevant.
      collection: the collection's name for a source without one; "": that of its folder.
      searched: how the passages of a system were searched, as `evaluate_embeddings` says.
    """
    scores = {
        system: score_run(dataset.qrels, run, relevance_level=relevance_level)
        for system, run in runs.items()
    }
    results = {
        system: summarize(system_scores, None if system == BASE else scores[BASE])
        for system, system_scores in scores.items()
    }
    title = name or collection or dataset.root.name
    return Outcome(name, title, dataset, runs, scores, results, searched)


def facts_by_system(outcomes: Sequence[Outcome]) -> dict[str, Facts]:
    """The content of results.json: facts by system, or by SOURCE/system for several sources."""
    return {
        f"{outcome.name}/{system}" if outcome.name else system: {
            **flat(results),
            **outcome.searched.get(system, {}),
        }
        for outcome in outcomes
        for system, results in outcome.results.items()
    }


def read_results(workdir: Path) -> dict[str, Facts]:
    """Read results.json of a finished run: facts by system; {} where there were no judgments.

    Older runs have NAME_interval, the two ends of an interval, in place of NAME_low and NAME_high.

    Raises:
      UserError: the file holds something else.
    """
    path = workdir / RESULTS_NAME
    if not path.is_file():
        return {}
    stored = read_json(path)
    if not isinstance(stored, dict) or not all(isinstance(x, dict) for x in stored.values()):
        raise UserError(f"{path}: not the results of a run of ldx.train; wanted facts by system")
    return {system: _renamed(facts) for system, facts in stored.items()}


def _renamed(stored: Mapping[str, Any]) -> Facts:
    facts: Facts = {}
    for name, value in stored.items():
        if name.endswith("_interval"):
            prefix = name.removesuffix("_interval")
            facts[f"{prefix}_low"], facts[f"{prefix}_high"] = value
        else:
            facts[name] = value
    return facts


@dataclasses.dataclass(frozen=True)
class Report:
    """What a single run scores on a collection.

    Attributes:
      results: the results by metric.
      scores: the metrics of every query.
      facts: counts and settings.
    """

    results: Results
    scores: Scores
    facts: Facts

    @property
    def metrics(self) -> Facts:
        """The content of metrics.json."""
        return {**flat(self.results), **self.facts}


def make_report(
    dataset: Dataset,
    run: Run,
    facts: Facts | None = None,
    *,
    relevance_level: int = 1,
    baseline: Run | None = None,
) -> Report:
    """Score a run, and compare it with another, over all judged queries.

    Args:
      dataset: the collection, whose qrels are the judgments.
      run: the run to score.
      facts: facts to put beside the metrics, such as those of `retrieve`.
      relevance_level: the least grade that is relevant to R, RR and AP.
      baseline: the run to compare with.
    """
    scores = score_run(dataset.qrels, run, relevance_level=relevance_level)
    base = None
    if baseline is not None:
        base = score_run(dataset.qrels, baseline, relevance_level=relevance_level)
    counts: Facts = {
        "num_queries": len(dataset.queries),
        "num_passages": len(dataset.corpus),
        "split": dataset.split,
        "relevance_level": relevance_level,
    }
    return Report(summarize(scores, base), scores, counts | (facts or {}))


def write_report(folder: str | Path, run: Run, report: Report) -> None:
    """Write FOLDER/run.trec, per_query.tsv and, once these are whole, metrics.json."""
    folder = folder_path("output", folder)
    write_run(folder / "run.trec", run)
    with atomic_write(folder / "per_query.tsv") as file:
        file.write("\t".join(("query_id", *METRICS)) + "\n")
        for query_id in report.scores.per_query[METRIC]:
            values = (repr(report.scores.per_query[name][query_id]) for name in METRICS)
            file.write("\t".join((query_id, *values)) + "\n")
    write_json(folder / "metrics.json", report.metrics)


def format_p_value(value: float) -> str:
    """A p-value with four decimals."""
    return "< 0.0001" if value < 0.00005 else f"{value:.4f}"


def format_table(title: str, rows: Mapping[str, MetricResult]) -> str:
    """Results as aligned columns, with differences where there is a base.

    The base's value has a column where the base itself is no row. The column p has the p-value of
    the paired permutation test; the column beside it has that of the paired t-test.

    Args:
      title: the title over the names of the rows.
      rows: the results by name, such as all metrics of a system, or all systems by a metric.
    """
    changes = [result.change for result in rows.values()]
    cells = [[title, "value", "95% interval"]]
    if any(changes):
        head = ["difference", "95% interval", "p", "t-test", "win/loss/tie"]
        cells[0] += ["baseline", *head] if all(changes) else head
    for name, result in rows.items():
        row = [name, f"{result.value:.4f}", f"[{result.low:.4f}, {result.high:.4f}]"]
        if all(changes):
            row.append(f"{result.baseline:.4f}")
        row += _change_cells(result.change) if result.change else []
        cells.append(row + [""] * (len(cells[0]) - len(row)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _change_cells(change: Comparison) -> list[str]:
    return [
        f"{change.difference:+.4f}",
        f"[{change.low:+.4f}, {change.high:+.4f}]",
        format_p_value(change.p_value),
        format_p_value(change.t_test_p_value),
        f"{change.wins}/{change.losses}/{change.ties}",
    ]
