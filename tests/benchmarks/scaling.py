"""How the step's cost grows: with devices, with lists and corpus on the host, and in tokens.

    python -m tests.benchmarks.scaling --json=FILE [--plot=FILE.png]

takes under five minutes on a CPU, and needs no data. Three parts:
devices: the same batch on 1, 2, 4 and 8 fake CPU devices, each in a process of its own. They share
    the processors, so the time does not shrink; each device's tokens do. Losses have to be equal.
plan: milliseconds that the host plans a batch of Q lists of L entries, up to a million passages,
    beside those in which the reference's way pads its input.
padded tokens: `tests.benchmarks.scaling_curve`; --plot draws them.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldx.data.plan import BatchPlanner
from tests.benchmarks.lists import BenchmarkLists, StoredTexts, save, synthetic_lists
from tests.benchmarks.scaling_curve import (
    MEAN_LENGTH,
    SETTINGS,
    curve,
    shapes_on_accelerator,
)
from tests.benchmarks.step_cases import Setup, SideResult, StepCase, batch_numbers
from tests.benchmarks.step_folders import random_bert
from tests.benchmarks.step_ours import batch_size, list_table
from tests.benchmarks.table import Case, Row, machine_description, print_table, write_json
from tests.benchmarks.worker import Worker

FAKE_DEVICES = "tests.benchmarks.step_ours:fake_devices"
DEVICE_COUNTS = (1, 2, 4, 8)
TINY_BERT = {
    "vocab_size": 2000,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
}
DEVICES_CASE = StepCase("synthetic", "tiny", 64)
LOSS_TOLERANCE = 1e-5

PLAN_QUERIES = (256, 1024, 4096)
PLAN_LIST_SIZES = (8, 20)
PLAN_CORPORA = (1_000, 10_000, 100_000, 1_000_000)
PLAN_REPEATS = 5
POOL_SIZE = 2**20


@dataclass(frozen=True, eq=False)
class PooledTexts:
    """Texts of given lengths that are views into one array of ids, as a token store's are."""

    lengths: np.ndarray
    pool: np.ndarray

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        """Token ids of one text, int32 [length]."""
        start = int(number) * 7919 % (len(self.pool) - 512)
        return self.pool[start : start + self.lengths[number]]


def with_texts(lists: BenchmarkLists, make: Callable[[Any], Any]) -> BenchmarkLists:
    """The same lists over texts that `make` makes of the old ones."""
    return dataclasses.replace(lists, passages=make(lists.passages), queries=make(lists.queries))


def stored(texts: Any) -> StoredTexts:
    """All texts in memory."""
    return StoredTexts.of([texts[number] for number in range(len(texts))])


def device_rows(
    setup: Setup, num_lists: int, counts: Sequence[int] = DEVICE_COUNTS, repeats: int = 3
) -> list[Row]:
    """Tokens a device and seconds a step, relative to one device.

    Raises:
      SystemExit: the losses differ.
    """
    rows: list[Row] = []
    numbers = batch_numbers(num_lists, setup.case.num_queries)
    first: SideResult | None = None
    for count in counts:
        with Worker(FAKE_DEVICES, setup=setup, num_devices=count) as worker:
            worker.call("step", numbers)
            results: list[SideResult] = worker.call("step", numbers, repeats)
        result = dataclasses.replace(
            results[0], seconds=statistics.median(r.seconds for r in results)
        )
        first = first or result
        assert first.loss is not None
        assert result.loss is not None
        difference = abs(result.loss - first.loss) / abs(first.loss)
        if not difference <= LOSS_TOLERANCE:
            raise SystemExit(
                f"{count} devices: loss {result.loss:.8g}, on one {first.loss:.8g}; not the same"
            )
        rows += _rows_of(count, result, first, difference)
    return rows


def _rows_of(count: int, result: SideResult, first: SideResult, difference: float) -> Iterator[Row]:
    """Tokens of a device beside an even share of one device's tokens, and seconds beside its."""
    extra = {
        "num_devices": count,
        "padded_tokens": result.padded_tokens,
        "loss_difference": difference,
    }
    name = f"{count} device{'s' if count > 1 else ''}"
    tokens = result.padded_tokens / count, first.padded_tokens / count
    yield Case("devices", f"{name}: tokens of each", *tokens, "tokens", extra=extra).row()
    seconds = result.seconds, first.seconds
    yield Case("devices", f"{name}: step", *seconds, "s", extra=extra).row()


def plan_rows(
    corpora: Sequence[int] = PLAN_CORPORA,
    batch_sizes: Sequence[int] = PLAN_QUERIES,
    list_sizes: Sequence[int] = PLAN_LIST_SIZES,
) -> list[Row]:
    """Milliseconds of planning a batch, and of the reference's padding."""
    rows = []
    pool = np.random.default_rng(0).integers(1000, 30522, POOL_SIZE, np.int32)
    for num_passages in corpora:
        for list_size in list_sizes:
            lists = with_texts(
                synthetic_lists(num_passages, max(batch_sizes), list_size, MEAN_LENGTH, seed=0),
                lambda texts: PooledTexts(texts.lengths, pool),
            )
            for num_queries in batch_sizes:
                case = f"{num_passages:,} passages, Q={num_queries}, L={list_size}"
                times = plan_milliseconds(lists, num_queries)
                extra = {
                    "num_passages": num_passages,
                    "num_queries": num_queries,
                    "list_size": list_size,
                }
                rows.append(Case("plan", case, *times, "ms", extra=extra).row())
    return rows


def plan_milliseconds(lists: BenchmarkLists, num_queries: int) -> tuple[float, float]:
    """Of ldx's planner (median), and of the reference's padding (once), for the first lists."""
    table, numbers = (
        list_table(lists.query, lists.rows, lists.teacher_scores),
        np.arange(num_queries),
    )
    planner = BatchPlanner(
        lists.passages,  # type: ignore[arg-type]
        lists.queries,  # type: ignore[arg-type]
        lists,
        query_max_length=SETTINGS.query_max_length,
        passage_max_length=SETTINGS.passage_max_length,
        shapes=shapes_on_accelerator(lists, num_queries),
        size=batch_size(lists, num_queries),
    )
    ours = statistics.median(
        _milliseconds(lambda: planner(table, numbers)) for _ in range(PLAN_REPEATS)
    )
    return ours, _milliseconds(lambda: _pad_as_reference(lists, numbers))


def _pad_as_reference(lists: BenchmarkLists, numbers: np.ndarray) -> None:
    """Model input of every entry, micro-batch by micro-batch."""
    for start in range(0, len(numbers), SETTINGS.lists_per_microbatch):
        chosen = numbers[start : start + SETTINGS.lists_per_microbatch]
        lists.padded_queries(lists.query[chosen], SETTINGS.query_max_length)
        lists.padded_passages(lists.rows[chosen].ravel(), SETTINGS.passage_max_length)


def _milliseconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def make_devices_setup(folder: Path) -> tuple[Setup, int]:
    """A tiny model and random lists, as files in a folder; and the number of lists."""
    num_lists = DEVICES_CASE.num_queries
    vocab_size = TINY_BERT["vocab_size"]
    lists = synthetic_lists(1000, num_lists, 20, MEAN_LENGTH, seed=0, vocab_size=vocab_size)
    save(folder / "lists.npz", with_texts(lists, stored))
    model = random_bert(folder / "model", TINY_BERT)
    return Setup(DEVICES_CASE, str(folder / "lists.npz"), str(model)), num_lists


def main(argv: Sequence[str] | None = None) -> None:
    """Run the three parts, print their tables and write their rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--plot", help="PNG for the curve")
    arguments = parser.parse_args(argv)
    machine = {"machine": machine_description()}
    rows: list[Row] = []

    def add(found: Sequence[Row]) -> None:
        print_table(found)
        sys.stdout.flush()
        rows.extend(row | machine for row in found)
        write_json(arguments.json, rows)

    points = curve()
    add([point.row() for point in points])
    if arguments.plot:
        from tests.benchmarks.scaling_plot import draw

        draw(points, arguments.plot)
    add(plan_rows())
    with tempfile.TemporaryDirectory() as folder:
        add(device_rows(*make_devices_setup(Path(folder))))


if __name__ == "__main__":
    main()
