"""Draws the curve of `scaling_curve`: where embed once pays, and where only padding is left."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tests.benchmarks.scaling_curve import LIST_SIZE, MEAN_LENGTH, Point

INK, MUTED, GRID = "#222222", "#666666", "#e4e4e4"
# Light to dark with the batch size, and a marker each.
COLORS = ("#86b6e8", "#3f87d1", "#1d5aa6", "#0b2e63")
MARKERS = ("o", "s", "D", "^")
RATIO_TICKS = (1, 2, 5, 10, 20, 50, 100, 200)


def draw(points: Sequence[Point], path: str | Path) -> None:
    """Write a PNG of two panels: all of the gain, and the part of it that padding gives."""
    style: Any = {"font.family": "DejaVu Sans", "font.size": 11, "axes.edgecolor": MUTED}
    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 5.0), layout="constrained")
        _lines(left, points, lambda point: point.ratio)
        _lines(right, points, lambda point: point.padding)
        left.set_yscale("log")
        left.set_ylim(1, 200)
        left.yaxis.set_major_locator(FixedLocator(RATIO_TICKS))
        left.yaxis.set_minor_locator(NullLocator())
        right.set_ylim(1, max(point.padding for point in points) + 0.5)
        left.set_title("Padded tokens, reference / ldx", loc="left", color=INK)
        right.set_title("of that, by less padding alone", loc="left", color=INK)
        for axes in (left, right):
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
        _mark_padding(left, points)
        left.legend(title="lists in a batch (Q)", frameon=False, reverse=True)
        figure.supxlabel(
            f"passages in the corpus  (random lists of {LIST_SIZE}; {MEAN_LENGTH} tokens a passage "
            "on average, at most 512)",
            color=MUTED,
            fontsize=11,
        )
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _lines(axes: Axes, points: Sequence[Point], value: Callable[[Point], float]) -> None:
    batch_sizes = sorted({point.num_queries for point in points})
    for place, num_queries in enumerate(batch_sizes):
        line = sorted(
            (point.num_passages, value(point))
            for point in points
            if point.num_queries == num_queries
        )
        axes.plot(
            *zip(*line, strict=True),
            color=COLORS[place % len(COLORS)],
            marker=MARKERS[place % len(MARKERS)],
            linewidth=2,
            markersize=6,
            label=f"{num_queries:,}",
        )
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, length=3)


def _mark_padding(axes: Axes, points: Sequence[Point]) -> None:
    """A line at what padding alone gives to the largest batch on the largest corpus."""
    last = max(points, key=lambda point: (point.num_passages, point.num_queries))
    axes.axhline(last.padding, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"what less padding alone gives Q={last.num_queries:,}: {last.padding:.1f}×",
        (last.num_passages, 1.9),
        ha="right",
        va="top",
        color=MUTED,
        fontsize=10,
    )
    axes.annotate(
        "",
        (last.num_passages / 1.5, last.padding),
        xytext=(last.num_passages / 1.5, 1.92),
        arrowprops={"arrowstyle": "->", "color": MUTED, "linewidth": 1},
    )


def _short(number: float, _: int) -> str:
    """1,000 as 1k, 1,000,000 as 1M."""
    return f"{number / 1e6:g}M" if number >= 1e6 else f"{number / 1e3:g}k"
