"""The report of a run on a test collection: metrics, intervals, a baseline, a table."""

import dataclasses
from pathlib import Path

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, write_json
from ldx.eval.beir import Dataset
from ldx.eval.metrics import (
    METRICS,
    Run,
    Scores,
    compare,
    confidence_interval,
    score_run,
    write_run,
)

MetricValues = dict[str, float | int | str]


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known about a run.

    Attributes:
      metrics: flat; the metrics, their intervals, counts, and comparisons with a baseline.
      scores: the metrics of each query.
    """

    metrics: MetricValues
    scores: Scores


def make_report(
    dataset: Dataset,
    run: Run,
    facts: MetricValues | None = None,
    *,
    relevance_level: int = 1,
    baseline: Run | None = None,
) -> Report:
    """Score a run, and compare it with another, over all judged queries.

    Args:
      dataset: its qrels count.
      run: the run.
      facts: kept beside the metrics, such as those of `retrieve`.
      relevance_level: the least grade that is relevant to R, RR and AP.
      baseline: the run to compare with.
    """
    scores = score_run(dataset.qrels, run, relevance_level=relevance_level)
    values: MetricValues = dict(scores.mean)
    for name in METRICS:
        values[f"{name}_low"], values[f"{name}_high"] = confidence_interval(
            scores.per_query[name].values()
        )
    values |= {
        "num_queries": len(dataset.queries),
        "num_passages": len(dataset.corpus),
        "split": dataset.split,
        "relevance_level": relevance_level,
        **(facts or {}),
    }
    if baseline is not None:
        base = score_run(dataset.qrels, baseline, relevance_level=relevance_level)
        for name in METRICS:
            values[f"{name}_baseline"] = base.mean[name]
            comparison = compare(scores.per_query[name], base.per_query[name])
            for key, value in dataclasses.asdict(comparison).items():
                prefix = "difference_" if key in ("low", "high") else ""
                values[f"{name}_{prefix}{key}"] = value
    return Report(values, scores)


def write_report(folder: str | Path, run: Run, report: Report) -> None:
    """Write FOLDER/run.trec, per_query.tsv and, once these are whole, metrics.json."""
    folder = Path(folder)
    check_output(folder)
    write_run(folder / "run.trec", run)
    with atomic_write(folder / "per_query.tsv") as file:
        file.write("\t".join(("query_id", *METRICS)) + "\n")
        for query_id in report.scores.per_query[METRICS[0]]:
            values = (repr(report.scores.per_query[name][query_id]) for name in METRICS)
            file.write("\t".join((query_id, *values)) + "\n")
    write_json(folder / "metrics.json", report.metrics)


def check_output(folder: Path) -> None:
    """Refuse an output that is a file, before the work begins."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --output is a folder")


def format_table(report: Report) -> str:
    """The metrics as aligned columns, with the baseline's where there is one.

    p is that of the paired permutation test, beside it stands that of the paired t-test.
    """
    values = report.metrics
    with_baseline = f"{METRICS[0]}_baseline" in values
    rows = [["metric", "value", "95% interval"]]
    if with_baseline:
        rows[0] += ["baseline", "difference", "95% interval", "p", "t-test", "win/loss/tie"]
    for name in METRICS:
        row = [name, f"{values[name]:.4f}", _interval(values, name, "")]
        if with_baseline:
            row += [
                f"{values[f'{name}_baseline']:.4f}",
                f"{values[f'{name}_difference']:+.4f}",
                _interval(values, f"{name}_difference", "+"),
                f"{values[f'{name}_p_value']:.4f}",
                f"{values[f'{name}_t_test_p_value']:.4f}",
                "/".join(str(values[f"{name}_{key}"]) for key in ("wins", "losses", "ties")),
            ]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _interval(values: MetricValues, name: str, sign: str) -> str:
    return f"[{values[f'{name}_low']:{sign}.4f}, {values[f'{name}_high']:{sign}.4f}]"
