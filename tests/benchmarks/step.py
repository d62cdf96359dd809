"""The training step: ldx beside the reference's way, and beside sentence-transformers' losses.

    python -m tests.benchmarks.step --json=FILE [--lists=DIR] [--cases=PATTERN,...] [--minutes=28]

runs on a CPU in under 30 minutes: a two-layer and the six-layer MiniLM on lists of NFCorpus and
SciFact. Without --lists, the lists are made from $LDX_DATA_DIR, once, in runs/benchmarks/lists.

    python -m tests.benchmarks.step --device=gpu --lists=DIR --json=FILE [--minutes=9]

runs on one GPU: BERT-base with random weights, bfloat16, 64/512 tokens, Q up to 4096, the largest
first. --cases='*Q=32 *,*Q=4096*' are the check and the largest alone, where a call has to be short.
Both sides hold the GPU's memory at the same time (`step_cases.OUR_MEMORY_SHARE`). The machine needs
jax (CUDA), flax, optax, numpy, absl-py, jaxtyping, protobuf, safetensors, tokenizers, tqdm, torch
(CUDA), transformers and sentence-transformers; no data and no network. To be carried along: the
folders `ldx` and `tests`, and DIR with nfcorpus.npz and scifact.npz, which
`python -m tests.benchmarks.lists --output=DIR` makes, best under runs/, which git ignores.

Before anything is timed, both sides compute losses and gradients of the same lists from the same
weights, and differences end the benchmark. Then they take turns. Every side is a process of its
own, so that memory is its own, and the others sleep while one works. The JSON is written after
every case, so what a kill leaves is whole. Cases that the time is too short for are left out, and
said.
"""

import argparse
import fnmatch
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldx.common.errors import UserError
from tests.benchmarks.lists import load
from tests.benchmarks.step_cases import (
    CPU_CASES,
    Setup,
    SideResult,
    StepCase,
    batch_numbers,
    checked_numbers,
    gpu_cases,
)
from tests.benchmarks.step_folders import model_folder
from tests.benchmarks.step_report import (
    MIN_REPEATS,
    NotEqual,
    check_equal,
    make_row,
    remarks,
    shown,
)
from tests.benchmarks.table import Row, machine_description, print_table, write_json
from tests.benchmarks.worker import Worker

LISTS = Path("runs/benchmarks/lists")
MINUTES = {"cpu": 28.0, "gpu": 9.0}
REPEATS = MIN_REPEATS
SAMPLE_SECONDS = 15.0  # of the reference's micro-batches in a timed step
MIN_SAMPLE = 2  # micro-batches
FEW = 2  # lists of a warm-up
THEIRS = "tests.benchmarks.step_theirs:make_side"
OURS = "tests.benchmarks.step_ours:OurSide"
CHECKS = "tests.benchmarks.device_checks:DeviceChecks"


@dataclass
class Timing:
    """The time that a case has, from its making on."""

    seconds: float

    def __post_init__(self) -> None:
        self._start = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds left; negative when they are over."""
        return self.seconds - (time.monotonic() - self._start)


class Comparison:
    """The sides of one case, each a process, and what they told.

    Args:
      setup: the case, its lists and its model.
      stack: ends the processes.
    """

    def __init__(self, setup: Setup, stack: ExitStack):
        self._case = case = setup.case
        self.theirs = stack.enter_context(Worker(THEIRS, setup=setup))
        self.ours = {
            choice: stack.enter_context(Worker(OURS, setup=setup, activations=choice))
            for choice in case.activations
        }
        lists = load(setup.lists)
        self._numbers = batch_numbers(len(lists), case.num_queries)
        self._checked = checked_numbers(case, lists)
        self._sample: int | None = None
        self._round_seconds = 0.0  # what the next round may take
        self.their_results: list[SideResult] = []
        self.our_results: dict[int | str, list[SideResult]] = {c: [] for c in case.activations}
        self.differences: dict[int | str, dict[str, float]] = {c: {} for c in case.activations}

    def warm_up(self) -> None:
        """Run every side once on a few lists, and choose how much of the reference is timed."""
        for side in (self.theirs, *self.ours.values()):
            side.call("step", self._numbers[:FEW])
        (result,) = self.theirs.call("step", self._numbers, 1)
        number = self.theirs.call("num_microbatches", self._numbers)
        fitting = max(MIN_SAMPLE, round(SAMPLE_SECONDS / (result.seconds / number)))
        sample = min(fitting, self._case.max_microbatches or number)
        self._sample = sample if sample < number else None

    def check(self) -> None:
        """Compare what the sides compute; where that is the whole batch, its time counts too.

        Raises:
          NotEqual: a side computes something else.
        """
        (theirs,) = self.theirs.call("step", self._checked)
        gradients = self.theirs.call("gradients")
        is_whole = len(self._checked) == len(self._numbers)
        self.their_results += [theirs] if is_whole else []
        for choice, side in self.ours.items():
            (ours,) = side.call("step", self._checked)
            name, found = self._case.row_name(choice), side.call("gradients")
            difference = check_equal(name, ours, theirs, found, gradients)
            self.differences[choice] = {"checked_lists": len(self._checked)} | difference
            self.our_results[choice] += [ours] if is_whole else []
            say(f"{name}: equal: {difference}")
            self._round_seconds = theirs.seconds + ours.seconds if is_whole else 0.0

    def run_rounds(self, timing: Timing) -> None:
        """Let the sides take turns, REPEATS times or as the time allows, at least once.

        The first choice of `activation_bytes` goes before the others.
        """
        first, *others = self.ours
        while len(self.their_results) < REPEATS:
            if self.their_results and timing.left < self._round_seconds:
                break
            start = time.monotonic()
            self.their_results += self.theirs.call("step", self._numbers, self._sample)
            self._step(first)
            self._round_seconds = time.monotonic() - start
            rounds_left = REPEATS - len(self.their_results)
            for choice in others:
                cost = self.our_results[first][-1].seconds * self._case.steps_a_round
                is_missing = not self.our_results[choice]
                if is_missing or timing.left - cost > rounds_left * self._round_seconds:
                    self._step(choice)

    def _step(self, choice: int | str) -> None:
        results = self.ours[choice].call("step", self._numbers, self._case.steps_a_round)
        self.our_results[choice] += results

    def rows(self, matmul_rate: float) -> list[Row]:
        """A row for each choice of `activation_bytes`."""
        plan_seconds = self.ours[self._case.activations[0]].call("plan_seconds", self._numbers)
        return [
            make_row(
                self._case,
                choice,
                ours,
                self.their_results,
                self.differences[choice] | self._loss_difference(ours),
                plan_seconds=plan_seconds,
                matmul_rate=matmul_rate,
            )
            for choice, ours in self.our_results.items()
        ]

    def _loss_difference(self, ours: list[SideResult]) -> dict[str, Any]:
        """Relative, of the timed batch; where the reference ran all of it."""
        losses = [result.loss for result in self.their_results if result.loss is not None]
        if not losses or ours[0].loss is None:
            return {}
        return {"timed_loss_difference": abs(ours[0].loss - losses[0]) / abs(losses[0])}


def run_case(setup: Setup, timing: Timing, matmul_rate: float) -> list[Row]:
    """The rows of one case; none if it is a check alone."""
    with ExitStack() as stack:
        comparison = Comparison(setup, stack)
        comparison.warm_up()
        if setup.case.num_checked:
            comparison.check()
        if not setup.case.is_timed:
            return []
        comparison.run_rounds(timing)
        return comparison.rows(matmul_rate)


def run_cases(
    cases: Sequence[StepCase], lists: Path, device: str, deadline: float, output: Path
) -> list[Row]:
    """The rows of all cases that begin before the deadline; written after each."""
    with tempfile.TemporaryDirectory() as folder, Worker(CHECKS, device=device) as checks:
        machine = machine_description() | {"device": checks.call("device_kind")}
        rows = [case.row() | {"machine": machine} for case in checks.call("float64_cases")]
        print_table(rows)
        rates = {dtype: checks.call("matmul_rate", dtype) for dtype in {c.dtype for c in cases}}
        checks.close()
        write_json(output, rows)
        if bad := [row["case"] for row in rows if not row["ratio"] >= 1]:
            raise NotEqual(f"float32 on this device is too coarse: {', '.join(bad)}")
        for number, case in enumerate(cases):
            left = deadline - time.monotonic()
            if left <= 0:
                say(f"{case.name}: left out, the time is over")
                continue
            timing = Timing(left * case.share / sum(c.share for c in cases[number:]))
            say(f"{case.name}: {timing.seconds:.0f} s")
            path = str(lists / f"{case.collection}.npz")
            setup = Setup(case, path, str(model_folder(case.model, Path(folder))), device)
            found = run_case(setup, timing, rates[case.dtype])
            for row in found:
                print_table(shown(row))
                print(remarks(row), flush=True)
            rows += [row | {"machine": machine} for row in found]
            write_json(output, rows)
    return rows


def find_lists(folder: str | None, collections: set[str]) -> Path:
    """The folder of the lists; they are made if no folder is given and there are none."""
    if folder:
        return Path(folder)
    missing = [name for name in sorted(collections) if not (LISTS / f"{name}.npz").is_file()]
    if missing:
        from tests.benchmarks.make_lists import main as make

        make([f"--output={LISTS}", "--collections", *missing])
    return LISTS


def say(text: str) -> None:
    """Tell how far the benchmark is."""
    print(text, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.step")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--lists", help="folder of NAME.npz, of python -m tests.benchmarks.lists")
    parser.add_argument("--cases", default="*", help="patterns of names, such as nfcorpus*Q=256*")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--minutes", type=float, help="of all cases; 28 on a CPU, 9 on a GPU")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, print tables and write their rows."""
    start = time.monotonic()
    arguments = parse(argv)
    patterns = arguments.cases.split(",")
    known = CPU_CASES if arguments.device == "cpu" else gpu_cases()
    cases = [c for c in known if any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]
    if not cases:
        names = "\n  ".join(case.name for case in known)
        raise SystemExit(f"--cases={arguments.cases}: no such case; there are\n  {names}")
    minutes = arguments.minutes or MINUTES[arguments.device]
    lists = find_lists(arguments.lists, {case.collection for case in cases})
    try:
        rows = run_cases(cases, lists, arguments.device, start + 60 * minutes, Path(arguments.json))
    except (NotEqual, UserError) as error:
        raise SystemExit(str(error)) from None
    print_table([row for row in rows if row["benchmark"] == "step"])
    say(f"{(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
