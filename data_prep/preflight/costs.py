"""The costs of a run, part by part, and a table of them."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.preflight.survey import SAMPLE_PASSAGES


@dataclass(frozen=True)
class Cost:
    """The cost of one part of a run.

    Attributes:
      stage: the stage that does it.
      what: what is done, such as `prompts of question`.
      number: how often it is done.
      tokens: the tokens of all together; 0 where none are counted.
      seconds: the time on this machine with this config; NaN where no sample was measured.
      problem: why no sample could be measured; "" where it was, or never is.
    """

    stage: str
    what: str
    number: int
    tokens: int
    seconds: float
    problem: str = ""


def costs_table(costs: Sequence[Cost]) -> str:
    """A table of costs for the screen."""
    head = ("stage", "what", "number", "tokens", "time")
    rows = [
        (
            cost.stage,
            cost.what,
            f"{cost.number:,}",
            f"{cost.tokens:,}" if cost.tokens else "",
            _duration(cost.seconds),
        )
        for cost in costs
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    total = np.nansum([cost.seconds for cost in costs])
    lines.append(
        f"about {_duration(total)} on this machine for what has a time, by a sample of "
        f"{SAMPLE_PASSAGES} passages. Not counted: what has no time, compilation, the search for "
        "near-duplicates, and BM25's index"
    )
    problems: dict[str, list[str]] = {}
    for cost in costs:
        if cost.problem:
            problems.setdefault(cost.problem, []).append(cost.what)
    lines += [f"no time for {', '.join(what)}: {problem}" for problem, what in problems.items()]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if np.isnan(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return str(datetime.timedelta(seconds=round(seconds)))
