"""The report's plots: inline SVG in the colours of the page, light or dark, and PNG.

The functions that draw return a matplotlib figure; `to_svg` makes markup of it.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldx.common.files import atomic_write
from ldx.report.html import Html, escape
from ldx.training.variants import Tried, alpha_of, in_words

Figure = Any  # matplotlib is imported where it is used


class Pair(NamedTuple):
    """The values of both models."""

    base: float
    trained: float


class Point(NamedTuple):
    """A value at a step."""

    step: int
    value: float


INK, GRID = "#1a1a1a", "#d4d7dc"
COLOURS = {"base": "#6b7280", "trained": "#0072b2", "teacher": "#c04f00", "best": "#00795a"}
"""Colours that the colour-blind can tell apart; in the page they are the variables of page.css."""
WIDTH, HEIGHT = 9.0, 3.3  # inches; 96 pixels each in the page, less where it is narrow
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,  # labels are texts of users
    "svg.fonttype": "none",
}


@contextmanager
def _style(name: str = "") -> Iterator[None]:
    import matplotlib

    style: Any = STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The browser draws glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def _subplots(columns: int = 1, height: float = HEIGHT, **options: Any) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **options)
    return figure, list(axes[0])


def to_svg(make: Callable[[], Figure], name: str, description: str) -> Html:
    """The figure that `make` makes, as an inline SVG element.

    Args:
      make: makes it.
      name: unique in the page; the ids inside the picture begin with it.
      description: what screen readers say instead of the picture.
    """
    with _style(name):
        buffer = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        make().savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for colour, variable in {INK: "ink", GRID: "line"}.items():
        text = text.replace(colour, f"var(--{variable})")
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    return Html(text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1))


def write_png(make: Callable[[], Figure], path: Path) -> None:
    """Write the figure that `make` makes as a PNG file."""
    with _style(), atomic_write(path, "wb") as file:
        make().savefig(file, dpi=120, format="png", facecolor="white")


def curves(
    train: Mapping[str, Sequence[Point]],
    dev: Sequence[Mapping[str, Any]],
    best_step: int,
    metric: str,
) -> Figure:
    """Total loss and dev metric by step, with marks for the best step and the base model.

    Args:
      train: the total loss at every step, by source.
      dev: the lines of metrics.jsonl that evaluations wrote.
      best_step: the step that is kept.
      metric: the dev metric, such as nDCG@10.
    """
    figure, (left, right) = _subplots(2)
    # Batches of several sources have losses of several heights: a line each.
    for shade, (name, points) in zip(np.linspace(1, 0.4, len(train)), train.items(), strict=True):
        steps, losses = zip(*points, strict=True)
        label = f"train {name}".strip()
        left.plot(steps, losses, color=COLOURS["base"], alpha=shade, label=label)
    evaluated = [line["step"] for line in dev]
    left.plot(
        evaluated, [line["dev/total"] for line in dev], "o-", color=COLOURS["trained"], label="dev"
    )
    left.axvline(best_step, color=COLOURS["best"], linestyle="--", linewidth=1)
    left.set(xlabel="step", ylabel="loss", title="Total loss")
    left.legend()
    values = [line[f"dev/{metric}"] for line in dev]
    right.plot(evaluated, values, "o-", color=COLOURS["trained"], label="dev")
    right.axhline(values[0], color=COLOURS["base"], linestyle=":", label="base model")
    best = dict(zip(evaluated, values, strict=True))[best_step]
    right.plot(
        best_step, best, "*", color=COLOURS["best"], markersize=15, label=f"kept: step {best_step}"
    )
    right.set(xlabel="step", ylabel=metric, title=f"Dev {metric}")
    right.margins(y=0.15)
    right.legend()
    for axes in (left, right):
        _whole_steps(axes)
    return figure


def alphas(values: Mapping[float, float], tried: Tried, metric: str) -> Figure:
    """The dev metric of base + alpha (best step - base) by alpha, and of means of models.

    Args:
      values: the metric by alpha, in ascending order; 0 is the base model.
      tried: what else was tried, and what is kept, which is marked.
      metric: the dev metric, such as nDCG@10.
    """
    figure, (axes,) = _subplots(height=2.8)
    axes.plot(list(values), list(values.values()), "o-", color=COLOURS["trained"])
    for name, mean in tried.means.items():
        axes.axhline(mean, color=COLOURS["trained"], linestyle="--", label=in_words(name))
    kept = f"kept: {in_words(tried.kept)}"
    alpha = alpha_of(tried.kept)
    height = tried.means.get(tried.kept, values.get(alpha, 0.0))
    axes.plot(alpha, height, "*", color=COLOURS["best"], markersize=15, label=kept)
    axes.axhline(values[0.0], color=COLOURS["base"], linestyle=":", label="base model")
    axes.set(xlabel="alpha", ylabel=metric, title=f"Dev {metric} between the models and beyond")
    axes.margins(y=0.15)
    axes.legend()
    return figure


def _whole_steps(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def work(ratios: Mapping[str, Sequence[Point]], seconds: Sequence[Point]) -> Figure:
    """The share of distinct passages among the slots of every step, and the seconds a step took.

    Args:
      ratios: the share at every step, by source.
      seconds: the seconds of every step; where there are none, that plot is left out.
    """
    figure, axes = _subplots(2 if seconds else 1)
    palette = list(COLOURS.values())
    for i, (name, points) in enumerate(ratios.items()):
        steps, values = zip(*points, strict=True)
        axes[0].plot(steps, values, ".-", color=palette[(i + 1) % 4], label=name)
    if len(ratios) > 1:
        axes[0].legend()
    axes[0].set(xlabel="step", ylabel="distinct passages / slots", title="Distinct passages")
    axes[0].set_ylim(0, 1.05)
    if seconds:
        steps, values = zip(*seconds, strict=True)
        axes[1].plot(steps, values, ".-", color=COLOURS["trained"])
        axes[1].set(xlabel="step", ylabel="seconds", title="Time of a step")
        axes[1].set_ylim(bottom=0)
    for each in axes:
        _whole_steps(each)
    return figure


def sorted_differences(differences: np.ndarray, metric: str) -> Figure:
    """The gain of every query, the greatest first."""
    figure, (axes,) = _subplots(height=2.8)
    values = np.sort(differences)[::-1]
    edges = np.arange(len(values) + 1)
    for part, colour in ((values.clip(min=0), "trained"), (values.clip(max=0), "teacher")):
        axes.stairs(part, edges, fill=True, color=COLOURS[colour])
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="queries, by difference", ylabel=f"{metric}, trained - base")
    axes.set_xlim(0, max(len(values), 1))
    _whole_steps(axes)
    return figure


def change_by_group(groups: Mapping[str, Pair], metric: str) -> Figure:
    """A line for each group, from the base model's value to the trained model's.

    Args:
      groups: both values, by name.
      metric: what they are of.
    """
    figure, (axes,) = _subplots(height=0.9 + 0.35 * len(groups))
    for y, pair in enumerate(groups.values()):
        colour = COLOURS["trained" if pair.trained >= pair.base else "teacher"]
        axes.plot(pair, [y, y], color=colour, linewidth=2.5, zorder=2)
        # The base model's mark is the larger, so that it shows where nothing changed.
        for value, system, size in ((pair.base, "base", 10), (pair.trained, "trained", 6)):
            label = None if y else system
            axes.plot(value, y, "o", color=COLOURS[system], ms=size, zorder=3, label=label)
    axes.set_yticks(range(len(groups)), labels=list(groups))
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set(xlabel=metric)
    axes.margins(x=0.1)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def score_density(teacher: np.ndarray, students: Mapping[str, np.ndarray]) -> Figure:
    """Density of list entries by the teacher's score and the student's, a plot for each system.

    Args:
      teacher: scores of all entries.
      students: scores of the same entries, by system.
    """
    from matplotlib.colors import ListedColormap, LogNorm, to_rgb
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = _subplots(len(students), height=3.8, sharex=True, sharey=True)
    values = np.concatenate(list(students.values()))
    extent = (*_wide(teacher), *_wide(values))
    colour, norm = to_rgb(COLOURS["trained"]), LogNorm(vmin=1, vmax=2)
    shades = ListedColormap([(*colour, alpha) for alpha in np.linspace(0.15, 1, 64)])
    for each, (system, scores) in zip(axes, students.items(), strict=True):
        drawn = each.hexbin(
            teacher, scores, gridsize=(36, 16), extent=extent, mincnt=1, cmap=shades, norm=norm,
            linewidths=0,
        )  # fmt: skip
        norm.vmax = max(norm.vmax, drawn.get_array().max())
        each.set(xlabel="teacher score", title=system)
    axes[0].set(ylabel="student score")
    bar = figure.colorbar(drawn, ax=axes, label="entries", shrink=0.8, format="{x:.0f}")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure


def _wide(values: np.ndarray) -> tuple[float, float]:
    """The range of some values with a little room on both sides; never empty."""
    low, high = float(values.min()), float(values.max())
    room = 0.03 * (high - low) or 0.5
    return low - room, high + room


def entropies(teacher: np.ndarray, students: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of list entropies: the teacher's targets filled, the students' as lines.

    Args:
      teacher: entropy of every list.
      students: likewise, by system.
    """
    figure, (axes,) = _subplots(height=3.0)
    bins = np.linspace(0, 1, 41)
    axes.hist(teacher, bins=bins, color=COLOURS["teacher"], alpha=0.35, label="teacher's targets")
    for system, values in students.items():
        axes.hist(
            values, bins=bins, histtype="step", linewidth=1.8, color=COLOURS[system], label=system
        )
    axes.set(xlabel="entropy, as a share of the flat distribution's", ylabel="dev lists")
    axes.set_xlim(0, 1)
    axes.legend()
    return figure


def intervals(
    rows: Sequence[Mapping[str, Any]], key: str, labels: Sequence[str], axis_label: str
) -> Figure:
    """A point with its interval for each row, the first on top; filled where p_holm < .05.

    Args:
      rows: with `key`, low, high and p_holm.
      key: the name of the point's value in a row.
      labels: of the rows, in their order.
      axis_label: what the numbers are.
    """
    figure, (axes,) = _subplots(height=1.0 + 0.28 * len(rows))
    for place, row in enumerate(rows):
        colour = COLOURS["trained" if row[key] >= 0 else "teacher"]
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        face = colour if row["p_holm"] < 0.05 else "none"
        axes.plot(row[key], place, "o", markersize=7, color=colour, markerfacecolor=face)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(axis_label)
    return figure
