"""What benchmarks print and write: one row a case, two medians and their ratio.

A benchmark's JSON is a list of {"benchmark", "case", "ours", "reference", "ratio", "unit", ...};
a ratio over 1 means that ldx is better.
"""

import datetime
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import ldx.common.files

KEYS = ("benchmark", "case", "ours", "reference", "ratio", "unit")
VERSIONS_OF = ("jax", "flax", "torch", "transformers", "sentence-transformers", "numpy")

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Two numbers of one case.

    Attributes:
      benchmark: what is measured.
      case: on what.
      ours: ldx's number.
      reference: the number of what it is compared with.
      unit: of both, such as "s" or "tokens".
      higher_is_better: true of rates, false of times and sizes.
      extra: more keys of the row, such as {"device": ...}.
    """

    benchmark: str
    case: str
    ours: float
    reference: float
    unit: str
    higher_is_better: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times better ldx is."""
        if self.higher_is_better:
            return self.ours / self.reference
        return self.reference / self.ours

    def row(self) -> Row:
        """The row of the JSON."""
        assert not set(self.extra) & set(KEYS), self.extra
        return {key: getattr(self, key) for key in KEYS} | dict(self.extra)


@dataclass(frozen=True)
class Measured:
    """Repeated measurements of one thing."""

    median: float
    values: tuple[float, ...]


def median_interleaved(
    functions: Mapping[str, Callable[[], float]],
    repeats: int,
    between: Callable[[], None] | None = None,
) -> dict[str, Measured]:
    """Run all functions in turn, `repeats` times over, so that a slow minute hits each of them.

    Args:
      functions: by name; each returns its number (`timed` makes one that returns its seconds).
      repeats: how often each is run.
      between: is run between any two runs.
    """
    values: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats):
        for place, (name, function) in enumerate(functions.items()):
            if between is not None and (turn or place):
                between()
            values[name].append(function())
    return {name: Measured(statistics.median(x), tuple(x)) for name, x in values.items()}


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """A function that runs `function` and returns the seconds it took.

    It has to wait for its own device: block_until_ready in JAX, synchronize in PyTorch.
    """

    def run() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


def print_table(rows: Sequence[Mapping[str, Any]], file: TextIO | None = None) -> None:
    """Print rows under their headings, numbers to three figures, whole from 1000 on."""
    cells = [list(KEYS), *([_shown(row[key]) for key in KEYS] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(KEYS))]
    is_number = [key in ("ours", "reference", "ratio") for key in KEYS]
    for line in cells:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, is_number, strict=True)
        ]
        print("  ".join(padded).rstrip(), file=file or sys.stdout)


def write_json(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a benchmark."""
    for row in rows:
        assert set(KEYS) <= set(row), row
    ldx.common.files.write_json(path, [dict(row) for row in rows])


def machine_description() -> dict[str, str | int]:
    """Processor, cores, system, GPU, versions and the day; nothing that names the machine."""
    description: dict[str, str | int] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if gpu := _gpu_model():
        description["gpu"] = gpu
    for name in VERSIONS_OF:
        try:
            description[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return description


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"


def _gpu_model() -> str | None:
    """As PyTorch names it, where a benchmark has loaded PyTorch."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
