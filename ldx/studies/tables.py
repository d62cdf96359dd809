"""The tables of a study: as Markdown, as CSV, and as rows for its page."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ldx.eval.report import format_p_value
from ldx.report.common import PAGE_NAME, REPORT_FOLDER, interval, signed
from ldx.studies.results import axis_columns

Summary = Mapping[str, Any]

SETTINGS_NOTE = "What all cells were run with; the tables show what the axes change."
TESTS_HEAD = ["p, randomisation", "p, t-test"]
BASE_KEPT = "base kept"
_BASE_KEPT_NOTE = (
    f' "{BASE_KEPT}": by dev no step was better than the untrained model, so that is what was '
    "tested; its gain of 0 says nothing about the steps that were done."
)
_ONE_SEED_NOTE = (
    " There is one seed: intervals and p are over test queries, and do not show how much another "
    "draw of training lists would change, which can be as much."
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
      title: the heading.
      note: what the numbers are.
      head: the names of the columns.
      rows: a text for each column.
      num_text_columns: how many of the first columns hold no numbers.
      links: the page that each row links to; empty where rows have none.
    """

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    num_text_columns: int
    links: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table in Markdown, with its heading, and columns that are aligned as plain text."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        number = [i >= self.num_text_columns for i in range(len(widths))]
        rule = [
            "-" * (width - 1) + ":" if right else "-" * width
            for width, right in zip(widths, number, strict=True)
        ]
        text = "\n".join(
            "| " + " | ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, number, strict=True)
            ) + " |"
            for line in [self.head, rule, *self.rows]
        )  # fmt: skip
        return f"## {self.title}\n\n{self.note}\n\n{text}\n"


def tables(study: Summary) -> list[Table]:
    """The tables of a study that have rows."""
    candidates = [
        _configurations(study),
        _values(study),
        _comparisons(study),
        _query_types(study),
        _cells(study),
    ]
    return [table for table in candidates if table.rows]


def settings_texts(study: Summary) -> dict[str, str]:
    """What a study was run with: settings as texts, by name."""
    return {name: _setting(value) for name, value in study["settings"].items()}


def _setting(value: Any) -> str:
    if isinstance(value, list):
        least, most = value
        return f"{_setting(least)} to {_setting(most)}, by cell"
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_text(study: Summary) -> str:
    """The report of a study as Markdown."""
    parts = [f"# {study['name']}\n", f"{study['question']}\n"]
    if study["caveat"]:
        parts.append(f"{study['caveat']}\n")
    settings = "\n".join(f"- {name}: {value}" for name, value in settings_texts(study).items())
    parts.append(f"## Settings\n\n{SETTINGS_NOTE}\n\n{settings}\n")
    parts += [table.markdown() for table in tables(study)]
    if study["failed"]:
        failed = "\n".join(f"- {name}: {why}" for name, why in study["failed"].items())
        parts.append(f"## Not finished\n\n{failed}\n")
    return "\n".join(parts)


def as_csv(study: Summary) -> str:
    """The cells as CSV, one a line."""
    cells = study["cells"]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(cells[0]) if cells else ["folder"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return file.getvalue()


def change(row: Mapping[str, Any], key: str = "gain") -> str:
    """A mean gain, or another difference, with its interval."""
    return f"{signed(row[key])} {interval((row['low'], row['high']), '+')}"


def label(row: Mapping[str, Any], axes: Sequence[str]) -> str:
    """The values of a row on these axes, with a remark where all its seeds kept the base model."""
    values = " · ".join(str(row[axis]) for axis in axes)
    return f"{values} ({BASE_KEPT})" if row["num_base_kept"] == row["num_seeds"] else values


def _tests(row: Mapping[str, Any]) -> list[str]:
    """The columns of TESTS_HEAD."""
    return [format_p_value(row["p_value"]), format_p_value(row["t_test_p_value"])]


def _finding(row: Mapping[str, Any], key: str) -> str:
    if row["p_holm"] >= 0.05:
        return "no difference seen"
    return "better" if row[key] > 0 else "worse"


def _outcome(row: Mapping[str, Any]) -> str:
    num_kept, num_seeds = row["num_base_kept"], row["num_seeds"]
    if num_kept == num_seeds:
        return BASE_KEPT
    finding = _finding(row, "gain")
    return f"{finding} ({BASE_KEPT} in {num_kept} of {num_seeds} seeds)" if num_kept else finding


def _outcome_against_baseline(row: Mapping[str, Any]) -> str:
    ours, baseline, num_seeds = (
        row[f"num_{name}"] for name in ("base_kept", "baseline_kept", "seeds")
    )
    if ours == baseline == num_seeds:
        return f"{BASE_KEPT} by both"
    finding = _finding(row, "difference")
    if not ours and not baseline:
        return finding
    return f"{finding} ({BASE_KEPT} in {ours} of {num_seeds} seeds, by the baseline in {baseline})"


def _configurations(study: Summary) -> Table:
    axes, metric = axis_columns(study), study["metric"]
    several = len(study["seeds"]) > 1
    head = [*axes, "test queries", "base", "trained", "gain [95%]"]
    head += [*TESTS_HEAD, "p Holm", "against base"]
    rows = [
        [
            *(row[axis] for axis in axes),
            str(row["num_queries"]),
            f"{row['base']:.4f}",
            f"{row['trained']:.4f}",
            change(row),
            *_tests(row),
            format_p_value(row["p_holm"]),
            _outcome(row),
        ]
        + ([_spread(row)] if several else [])
        for row in study["configurations"]
    ]
    note = (
        f"Test {metric}; gain over the untrained base model with its 95% bootstrap interval over "
        "queries; p of the paired randomisation (sign-flip) test and of the paired t-test, and the "
        "former corrected for all rows (Holm)."
    )
    if any(row["num_base_kept"] for row in study["configurations"]):
        note += _BASE_KEPT_NOTE
    if not several:
        note += _ONE_SEED_NOTE
    else:
        head.append("spread over seeds")
        note += (
            " Queries are averaged over seeds before testing; the spread is the standard deviation "
            "of the seeds' gains."
        )
    return Table("Trained against untrained", note, head, rows, len(axes))


def _spread(row: Mapping[str, Any]) -> str:
    return "" if row["spread"] is None else f"{row['spread']:.4f} ({row['num_seeds']})"


def _values(study: Summary) -> Table:
    rows = [
        [
            row["axis"],
            row["value"],
            f"{row['base']:.4f}",
            f"{row['trained']:.4f}",
            f"{row['gain']:+.4f}",
            str(row["num_cells"]),
            str(row["num_base_kept"]),
        ]
        for row in study["values"]
    ]
    note = (
        f"Mean test {study['metric']} over datasets (each counts alike), other axes and seeds; "
        "where cells are missing, over what all values of the axis have. Cells that kept the base "
        "model count with a gain of 0."
    )
    left_out = _left_out(study)
    if left_out:
        counts = ", ".join(f"{number} cells for {axis}" for axis, number in left_out.items())
        note += f" Left out for that: {counts}."
    head = ["axis", "value", "base", "trained", "gain", "cells", BASE_KEPT]
    return Table("By value", note, head, rows, 2)


def _left_out(study: Summary) -> dict[str, int]:
    """The number of cells that have no counterpart of another value, by axis."""
    counts = {axis: len(study["cells"]) for axis, values in study["axes"].items() if values[1:]}
    for row in study["values"]:
        counts[row["axis"]] -= row["num_cells"]
    return {axis: number for axis, number in counts.items() if number}


def _comparisons(study: Summary) -> Table:
    axes = axis_columns(study)
    baseline = ", ".join(f"{axis} {value}" for axis, value in study["baseline"].items())
    rows = [
        [
            *(row[axis] for axis in axes),
            change(row, "difference"),
            *_tests(row),
            format_p_value(row["p_holm"]),
            f"{row['wins']}/{row['losses']}/{row['ties']}",
            _outcome_against_baseline(row),
        ]
        for row in study["comparisons"]
    ]
    note = (
        f"Gain less that of the baseline ({baseline}) where all else is equal, query by query over "
        "the queries that both have; p of the randomisation test corrected for all rows (Holm)."
    )
    if len(study["seeds"]) == 1:
        note += _ONE_SEED_NOTE
    head = [*axes, "difference [95%]", *TESTS_HEAD, "p Holm", "win/loss/tie", "against baseline"]
    return Table("Against the baseline", note, head, rows, len(axes))


def _query_types(study: Summary) -> Table:
    axes = axis_columns(study)
    rows = [
        [
            *(row[axis] for axis in axes),
            row["query_type"],
            change(row),
            *_tests(row),
            format_p_value(row["p_holm"]),
            str(row["num_queries"]),
            _outcome(row),
        ]
        for row in study["query_types"]
    ]
    judges = {
        "teacher": "by the teacher (type human: by people)",
        "graded": "by the grades in their lists",
    }
    judged = " or ".join(judges[source] for source in study["list_sources"])
    note = (
        "Dev nDCG@10 at the kept step less that before training, by the type of the dev queries; "
        f"judged {judged}, and the step was chosen on the same lists."
    )
    head = [*axes, "query type", "dev gain [95%]", *TESTS_HEAD, "p Holm", "queries"]
    head.append("against base")
    return Table("By query type", note, head, rows, len(axes) + 1)


def _cells(study: Summary) -> Table:
    axes = axis_columns(study)
    rows = [
        [
            *(row[axis] for axis in axes),
            str(row["seed"]),
            str(row["num_passages"]),
            str(row["num_lists"]),
            f"{row['best_step']} of {row['last_step']}",
            f"{row['dev_base']:.4f} -> {row['dev_trained']:.4f}",
            row["dev_verdict"],
            f"{row['base']:.4f}",
            f"{row['trained']:.4f}",
            change(row),
            *_tests(row),
        ]
        for row in study["cells"]
    ]
    head = [*axes, "seed", "passages", "lists", "step", "dev nDCG@10", "dev verdict"]
    head += ["base", "trained", "gain [95%]"]
    note = "Every run: the step that dev kept of those done, and its numbers on dev and test."
    links = tuple(f"cells/{row['folder']}/{REPORT_FOLDER}/{PAGE_NAME}" for row in study["cells"])
    return Table("Cells", note, [*head, *TESTS_HEAD], rows, len(axes), links)
