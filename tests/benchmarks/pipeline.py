"""The demo's wall time by stage and the texts it embeds, with and without the embedding store.

    python -m tests.benchmarks.pipeline --json=FILE [--config=configs/demo.py:smoke]

Every stage of data_prep, training with its report, and the export run as commands, one after the
other: first as they are, then with a store that keeps nothing (files of whole corpora, which stages
and training share by themselves, stay). Both must end in the same nDCG@10.
The demo takes about six minutes on two CPU cores as it is, and longer without the store.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_prep.pipeline.order import STAGES
from ldx.common.files import read_json
from tests.benchmarks.table import Case, Row, machine_description, print_table, write_json

TOLERANCE = 1e-3  # of nDCG@10: other batches of texts round otherwise
COMMAND = """
import atexit, functools, json, os, runpy, sys
from ldx.retrieval import store
if os.environ["KEEPS"] == "no":
    store.EmbeddingStore.__init__.__defaults__ = (0,)
stores = []
@functools.lru_cache
def get_store(workdir, get_store=store.get_store):
    stores.append(get_store(workdir))
    return stores[-1]
store.get_store = get_store
def write_counts():
    counts = [sum(getattr(s, name) for s in stores) for name in ("num_embedded", "num_requested")]
    with open(os.environ["COUNTS"], "w") as file:
        json.dump(counts, file)
atexit.register(write_counts)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module as a command, and writes how many texts were embedded, of how many asked for."""


class Stage(NamedTuple):
    """What a command took.

    Attributes:
      seconds: its wall time.
      embedded: the texts that it embedded.
      requested: the embeddings that it asked for.
    """

    seconds: float
    embedded: int
    requested: int


def run_command(module: str, arguments: Sequence[str], *, keeps: bool, counts: Path) -> Stage:
    """Run one command; its log is shown where it fails."""
    counts.unlink(missing_ok=True)
    environment = {**os.environ, "KEEPS": "yes" if keeps else "no", "COUNTS": str(counts)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, module, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stdout}{done.stderr}")
    return Stage(seconds, *read_json(counts))


def run_pipeline(config: str, workdir: Path, *, keeps: bool) -> dict[str, Stage]:
    """Run all commands of the demo, by name."""
    counts, flags = workdir.with_suffix(".counts"), [f"--config={config}", f"--workdir={workdir}"]
    commands = {name: (f"data_prep.{name}", flags) for name in STAGES} | {
        "train": ("ldx.train", flags),
        "export": (
            "ldx.export",
            [f"--workdir={workdir}", f"--output={workdir}/export", "--force"],
        ),
    }
    stages = {}
    for name, (module, arguments) in commands.items():
        stages[name] = run_command(module, arguments, keeps=keeps, counts=counts)
        print(f"{'with' if keeps else 'without'} the store, {name}: {stages[name]}", flush=True)
    return stages


def make_rows(kept: dict[str, Stage], forgotten: dict[str, Stage]) -> list[Row]:
    """Seconds and embedded texts of every stage and of all; the reference is without the store."""
    rows = []
    for name in (*kept, "all"):
        names = list(kept) if name == "all" else [name]
        ours, reference = ([stages[each] for each in names] for stages in (kept, forgotten))
        seconds = [sum(stage.seconds for stage in side) for side in (ours, reference)]
        counts = {
            "embedded": sum(stage.embedded for stage in ours),
            "reference_embedded": sum(stage.embedded for stage in reference),
            "requested": sum(stage.requested for stage in ours),
        }
        rows.append(Case("pipeline", name, *seconds, "s", extra=counts).row())
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo twice, print the table and write its rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pipeline")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--config", default="configs/demo.py", help="the experiment")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        workdirs = {keeps: Path(folder) / f"{keeps}" for keeps in (True, False)}
        kept, forgotten = (
            run_pipeline(arguments.config, workdir, keeps=keeps)
            for keeps, workdir in workdirs.items()
        )
        results = [read_json(workdir / "results.json") for workdir in workdirs.values()]
        for system, facts in results[0].items():
            if not abs(facts["nDCG@10"] - results[1][system]["nDCG@10"]) <= TOLERANCE:
                raise SystemExit(f"the results of {system} differ: {results}")
    rows = make_rows(kept, forgotten)
    print_table(rows)
    for row in rows:
        print(
            f"{row['case']}: {row['embedded']} texts embedded, {row['reference_embedded']} without"
        )
    write_json(arguments.json, [row | {"machine": machine_description()} for row in rows])


if __name__ == "__main__":
    main()
