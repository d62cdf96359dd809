"""Time and peak memory of every stage of data_prep on a large synthetic corpus.

    python -m tests.benchmarks.preparation --json=FILE [--passages=1000000] [--sources=2000]

Passages are random words by Zipf's law. The student is a random BERT of two narrow layers, so that
a CPU can embed a million passages: the time of embedding says nothing, the memory does. Memory is
that of the stage's process: what is its own (anonymous) and, beside it, pages of mapped files,
which the system takes back when it needs them. It is to grow by a few bytes a passage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.run import STAGES
from tests.tiny_bert import write_bert

NUM_WORDS = 200_000
NUM_TEST_QUERIES = 50
MEAN_LENGTH = 80
CONFIG = """
from configs import base

def get_config():
    config = base.get_config()
    config.data.root = {root!r}
    config.model.path = {model!r}
    config.model.query_max_length = 16
    config.model.passage_max_length = 32
    config.prep.max_source_passages = {sources}
    config.prep.index = "exact"
    config.prep.require_own_first = False
    return config
"""


def write_corpus(root: Path, num_passages: int) -> None:
    """Passages of random words, every hundredth repeats the one before; and some test queries."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(3, 10))) for _ in range(NUM_WORDS)])
    weights = 1 / np.arange(1, NUM_WORDS + 1)
    bounds = np.cumsum(weights / weights.sum())
    text = ""
    queries, qrels = [], ["query-id\tcorpus-id\tscore"]
    with open(root / "corpus.jsonl", "w", encoding="utf-8") as file:
        for row in range(num_passages):
            if row % 100 != 99:
                size = rng.integers(20, 2 * MEAN_LENGTH - 20)
                chosen = words[np.minimum(np.searchsorted(bounds, rng.random(size)), NUM_WORDS - 1)]
                sentences = np.array_split(chosen, max(1, size // 12))
                text = " ".join(" ".join(each).capitalize() + "." for each in sentences)
            file.write(json.dumps({"_id": f"d{row}", "title": "", "text": text}) + "\n")
            if row < NUM_TEST_QUERIES:
                words_of_query = rng.choice(text.split(), 5, replace=False)
                queries.append(json.dumps({"_id": f"q{row}", "text": " ".join(words_of_query)}))
                qrels.append(f"q{row}\td{row}\t1")
    (root / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    (root / "qrels").mkdir()
    (root / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")


class Peak:
    """The most memory of a process while it runs, in bytes: its own, and all that was resident."""

    def __init__(self, pid: int):
        self.anonymous = self.resident = 0
        self._path = Path(f"/proc/{pid}/status")
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                lines = self._path.read_text().splitlines()
            except OSError:
                return
            sizes = {x.partition(":")[0]: x.split()[1] for x in lines if x.endswith(" kB")}
            self.anonymous = max(self.anonymous, int(sizes.get("RssAnon", 0)) * 1024)
            self.resident = max(self.resident, int(sizes.get("VmHWM", 0)) * 1024)
            time.sleep(0.1)


def run_stage(name: str, flags: Sequence[str]) -> dict[str, float]:
    """Seconds, and peak bytes: anonymous, and all that was resident."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", f"data_prep.{name}", *flags])
    peak = Peak(process.pid)
    if process.wait():
        sys.exit(f"{name} failed")
    seconds = time.monotonic() - start
    return {"seconds": seconds, "anonymous": peak.anonymous, "resident": peak.resident}


def main(argv: Sequence[str] | None = None) -> None:
    """Run all stages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", required=True)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--sources", type=int, default=2000)
    parser.add_argument("--folder", help="for corpus and workdir; kept there; default: temporary")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        root, model, config = folder / "corpus", folder / "model", folder / "config.py"
        if not config.is_file():
            root.mkdir(parents=True)
            write_corpus(root, arguments.passages)
            sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
            write_bert(model, ["."], **sizes)
            values = {"root": str(root), "model": str(model), "sources": arguments.sources}
            config.write_text(CONFIG.format(**values))
        flags = [f"--config={config}", f"--workdir={folder / 'work'}"]
        rows = []
        print(f"{arguments.passages:,} passages, {arguments.sources:,} of them get queries")
        print(f"{'stage':<18}{'time':>10}{'own memory':>14}{'with files':>14}")
        for name in STAGES:
            found = run_stage(name, flags)
            print(
                f"{name:<18}{found['seconds']:>8.0f} s{found['anonymous'] / 2**20:>10.0f} MiB"
                f"{found['resident'] / 2**20:>10.0f} MiB",
                flush=True,
            )
            rows += [
                {
                    "benchmark": "preparation",
                    "case": f"{name} of {arguments.passages} passages, {what}",
                    "ours": found[what],
                    "reference": None,
                    "ratio": None,
                    "unit": "s" if what == "seconds" else "bytes",
                }
                for what in found
            ]
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
