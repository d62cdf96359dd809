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
from ldx.training.checkpoint import Progress

MAX_POINTS = 240
LENGTH_BYTES = 12  # of a record's head: its length and that one's checksum
STEP_SECONDS = "seconds_per_step"

Line = Mapping[str, Any]
Points = list[tuple[int, float]]


def train_lines(lines: Sequence[Line]) -> list[Line]:
    """The lines of metrics.jsonl that training steps wrote."""
    return [line for line in lines if "learning_rate" in line]


def dev_lines(lines: Sequence[Line], metric: str) -> list[Line]:
    """Those that evaluations wrote."""
    return [line for line in lines if f"dev/{metric}" in line]


def thin(points: Points) -> Points:
    """Means of neighbours, so that a plot holds no more than it can show."""
    if len(points) <= MAX_POINTS:
        return points
    parts = np.array_split(np.array(points), MAX_POINTS)
    return [(round(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


def curves_figure(lines: Sequence[Line], progress: Progress, metric: str) -> plots.Figure:
    """Losses and dev metric by step."""
    losses: dict[str, Points] = {}
    for line in train_lines(lines):
        losses.setdefault(str(line.get("source", "")), []).append((line["step"], line["total"]))
    thinned = {source: thin(points) for source, points in losses.items()}
    return plots.curves(thinned, dev_lines(lines, metric), progress.best_step, metric)


def curves_section(lines: Sequence[Line], progress: Progress, metric: str) -> Html:
    """The curves, and every evaluation in numbers."""
    dev = dev_lines(lines, metric)
    if not dev:
        raise NoData("The run was never evaluated.")
    before = dev[0][f"dev/{metric}"]
    kept = next(x for x in dev if x["step"] == progress.best_step)[f"dev/{metric}"]
    told = (
        f"Training ended at step {progress.step}: {progress.stop_reason}. Kept is step "
        f"{progress.best_step}, dev {metric} {kept:.4f}; the base model has {before:.4f}."
    )
    image = plots.to_svg(lambda: curves_figure(lines, progress, metric), "curves", told)
    names = list(dict.fromkeys(key for line in dev for key in line if key.startswith("dev/")))
    rows = [[line["step"], *(f"{line[n]:.4f}" if n in line else "" for n in names)] for line in dev]
    every = table(["step", *(name.removeprefix("dev/") for name in names)], rows)
    return join([figure(image, told), details("Every evaluation on the dev lists", every)])


def work_section(lines: Sequence[Line], workdir: Path) -> Html:
    """Distinct passages and seconds by step."""
    ratios: dict[str, Points] = {}
    for line in train_lines(lines):
        if line.get("num_slots"):
            ratio = line["num_distinct_passages"] / line["num_slots"]
            ratios.setdefault(str(line.get("source", "")), []).append((line["step"], ratio))
    if not ratios:
        raise NoData("No training step was done.")
    seconds = step_seconds(workdir)
    values = np.array([ratio for points in ratios.values() for _, ratio in points])
    told = (
        f"A passage that stands in several lists of a batch is embedded once: on average "
        f"{values.mean():.2f} of the slots hold a distinct passage."
    )
    if seconds:
        told += f" A step took {np.median([s for _, s in seconds]):.2f} s (median)."
    image = plots.to_svg(
        lambda: plots.work({n: thin(p) for n, p in ratios.items()}, thin(seconds)), "work", told
    )
    parts = [figure(image, told)]
    if not seconds:
        parts.append(note("Times are in WORKDIR/tensorboard, and there are none of this run."))
    return join(parts)


def step_seconds(workdir: Path) -> Points:
    """Seconds of every step, from TensorBoard's files; of steps done again, the last time."""
    from tensorboardX.proto import event_pb2

    seconds: dict[int, float] = {}
    for path in sorted((workdir / "tensorboard").glob("*tfevents*")):
        for record in _records(path.read_bytes()):
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.tag == STEP_SECONDS:
                    seconds[event.step] = value.simple_value
    return sorted(seconds.items())


def _records(data: bytes) -> Iterator[bytes]:
    """Records of a TFRecord file, without the last where a kill cut it short."""
    start = 0
    while start + LENGTH_BYTES <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        record = data[start + LENGTH_BYTES : start + LENGTH_BYTES + length]
        if len(record) < length:
            return
        yield record
        start += FRAME_BYTES + length
