"""Sections of the report on the run: losses and dev metric by step, distinct passages, times."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldx.records.tfrecord import FRAME_BYTES
from ldx.report import plots
from ldx.report.common import NoData
from ldx.report.html import Html, details, figure, join, note, table
from ldx.report.plots import Point
from ldx.training.checkpoint import Progress
from ldx.training.variants import Tried

MAX_POINTS = 240
LENGTH_BYTES = 12  # of a TFRecord's head: the record's length and the checksum of that length
STEP_SECONDS = "seconds_per_step"

Line = Mapping[str, Any]
"""A line of metrics.jsonl."""


def train_lines(lines: Sequence[Line]) -> list[Line]:
    """The lines of metrics.jsonl that training steps wrote."""
    return [line for line in lines if "learning_rate" in line]


def dev_lines(lines: Sequence[Line], metric: str) -> list[Line]:
    """The lines of metrics.jsonl that evaluations on the dev lists wrote."""
    return [line for line in lines if f"dev/{metric}" in line]


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """Means of neighbouring points, so that a plot holds no more than it can show."""
    if len(points) <= MAX_POINTS:
        return points
    steps, values = np.transpose(points)
    parts = zip(np.array_split(steps, MAX_POINTS), np.array_split(values, MAX_POINTS), strict=True)
    return [Point(round(some[-1]), float(means.mean())) for some, means in parts]


def curves_figure(lines: Sequence[Line], progress: Progress, metric: str) -> plots.Figure:
    """Losses and dev metric by step."""
    losses: dict[str, list[Point]] = {}
    for line in train_lines(lines):
        point = Point(line["step"], line["total"])
        losses.setdefault(str(line.get("source", "")), []).append(point)
    thinned = {source: thin(points) for source, points in losses.items()}
    return plots.curves(thinned, dev_lines(lines, metric), progress.best_step, metric)


def curves_section(lines: Sequence[Line], progress: Progress, metric: str) -> Html:
    """The curves, and every evaluation in numbers."""
    dev = dev_lines(lines, metric)
    if not dev:
        raise NoData("The run was never evaluated.")
    values = {line["step"]: line[f"dev/{metric}"] for line in dev}
    caption = (
        f"Training ended at step {progress.step}: {progress.stop_reason}. Step "
        f"{progress.best_step} is the best, with dev {metric} {values[progress.best_step]:.4f}; "
        f"the base model has {values[0]:.4f}."
    )
    image = plots.to_svg(lambda: curves_figure(lines, progress, metric), "curves", caption)
    names = list(dict.fromkeys(key for line in dev for key in line if key.startswith("dev/")))
    rows = [[line["step"], *(f"{line[n]:.4f}" if n in line else "" for n in names)] for line in dev]
    evaluations = table(["step", *(name.removeprefix("dev/") for name in names)], rows)
    return join([figure(image, caption), details("Every evaluation on the dev lists", evaluations)])


def alpha_section(tried: Tried, base: float, metric: str) -> Html:
    """What base + alpha (best - base), and means, have on dev; nothing where nothing was tried.

    Args:
      tried: what was tried, and what is kept.
      base: the dev metric of the base model, which is alpha 0.
      metric: the dev metric, such as nDCG@10.
    """
    if len(tried.alphas) < 2 and not tried.means:
        return join([])
    values = dict(sorted({**tried.alphas, 0.0: base}.items()))
    caption = (
        "Parameters base + alpha (best step - base): alpha 0 is the base model, 1 the best step. "
        f"{tried.text[:1].upper()}{tried.text[1:]}. Where train.alpha is auto, another than the "
        "best step is kept only if a paired test says that it is better (p under .05)."
    )
    image = plots.to_svg(lambda: plots.alphas(values, tried, metric), "alpha", caption)
    return figure(image, caption)


def work_section(lines: Sequence[Line], workdir: Path) -> Html:
    """Distinct passages and seconds by step."""
    ratios: dict[str, list[Point]] = {}
    for line in train_lines(lines):
        if line.get("num_slots"):
            ratio = line["num_distinct_passages"] / line["num_slots"]
            point = Point(line["step"], ratio)
            ratios.setdefault(str(line.get("source", "")), []).append(point)
    if not ratios:
        raise NoData("No training step was done.")
    seconds = step_seconds(workdir)
    values = np.array([point.value for points in ratios.values() for point in points])
    caption = (
        f"On average {values.mean():.2f} of a batch's slots hold a distinct passage; the others "
        "repeat one of these, and cost nothing."
    )
    if seconds:
        caption += f" A step took {np.median([point.value for point in seconds]):.2f} s (median)."
    image = plots.to_svg(
        lambda: plots.work({n: thin(p) for n, p in ratios.items()}, thin(seconds)), "work", caption
    )
    parts = [figure(image, caption)]
    if not seconds:
        parts.append(note("The times are not known: WORKDIR/tensorboard has none of this run."))
    return join(parts)


def step_seconds(workdir: Path) -> list[Point]:
    """Seconds of every step, from TensorBoard's files; of a step done again, the last time."""
    from tensorboardX.proto import event_pb2

    seconds: dict[int, float] = {}
    for path in sorted((workdir / "tensorboard").glob("*tfevents*")):
        for record in _records(path.read_bytes()):
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.tag == STEP_SECONDS:
                    seconds[event.step] = value.simple_value
    return [Point(step, value) for step, value in sorted(seconds.items())]


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file, without a last one that a kill cut short."""
    start = 0
    while start + LENGTH_BYTES <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        record = data[start + LENGTH_BYTES : start + LENGTH_BYTES + length]
        if len(record) < length:
            return
        yield record
        start += FRAME_BYTES + length
