"""Time and peak memory of what stage 1 does to a corpus, on synthetic passages.

    python -m tests.benchmarks.near_duplicates --num=1000000 [--stage=find|read|health]

- find: near-duplicates, by data_prep.corpora.near_duplicates;
- read: a corpus.jsonl of the passages, by ldx.eval.passages;
- health: the report of data_prep.corpora.health, of no test query, or of --test-queries of them.

One stage a process, for the peak of memory is the process's. A passage is words of a Zipf
distribution; 2% repeat an earlier passage whole, 2% are cut out of one, and --accents of them have
letters that are not ASCII. The time to make them is measured alone and told apart.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.corpora.health import RejectCounts, health_report, render
from data_prep.corpora.near_duplicates import find_near_duplicates
from ldx.eval.passages import read_passages
from ldx.records.schema import Passage

VOCABULARY = 50_000
PASSAGES_AT_ONCE = 1000
REPEATED, CUT = 0.02, 0.02
LETTERS = "etaoinshrdlucmfw"


def synthetic_texts(num: int, chars: int, accents: float) -> Iterator[str]:
    """Texts of about `chars` characters, always the same."""
    rng = np.random.default_rng(0)
    words = np.array(
        ["".join(rng.choice(list(LETTERS), rng.integers(2, 10))) for _ in range(VOCABULARY)]
    )
    words_a_text = chars // 7
    for start in range(0, num, PASSAGES_AT_ONCE):
        size = min(PASSAGES_AT_ONCE, num - start)
        ranks = rng.zipf(1.2, (size, words_a_text)) % VOCABULARY
        kinds, places = rng.random(size), rng.integers(0, size, size)
        texts = [" ".join(row) for row in words[ranks].tolist()]
        for number, text in enumerate(texts):
            text = f"{text[:1].upper()}{text[1:]}, {start + number}."
            if kinds[number] < REPEATED:
                text = texts[places[number]]
            elif kinds[number] < REPEATED + CUT:
                other = texts[places[number]]
                text = other[: len(other) // 2] if number % 2 else other[len(other) // 2 :]
            if kinds[number] > 1 - accents:
                text = text.replace("e", "é").replace(" o", " – ö")
            yield text


def peak_megabytes() -> float:
    """The largest resident size of this process so far."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def _run(args: argparse.Namespace, folder: Path) -> str:
    texts = synthetic_texts(args.num, args.chars, args.accents)
    if args.stage == "find":
        memory_bytes = args.memory_mib * 2**20
        return str(find_near_duplicates(texts, folder=folder, memory_bytes=memory_bytes).counts())
    if args.stage == "health":
        passages = (Passage(str(row), "", text) for row, text in enumerate(texts))
        queries = [
            " ".join(text.split()[:8]) for text in synthetic_texts(args.test_queries, 500, 0)
        ]
        return render(health_report(passages, max_chars=2048, test_queries=queries))
    rejects = RejectCounts()
    num = sum(1 for _ in read_passages(str(folder), reject=rejects))
    return f"{num:,} passages, {rejects.counts.total():,} rejected"


def main() -> None:
    """Measure one stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--chars", type=int, default=500)
    parser.add_argument("--accents", type=float, default=0.1)
    parser.add_argument("--memory-mib", type=int, default=256)
    parser.add_argument("--test-queries", type=int, default=0)
    parser.add_argument("--stage", choices=("find", "read", "health"), default="find")
    parser.add_argument("--folder", default=None, help="for temporary files")
    args = parser.parse_args()
    start = time.perf_counter()
    size = sum(len(text) for text in synthetic_texts(args.num, args.chars, args.accents))
    making = time.perf_counter() - start
    print(f"{args.num:,} passages, {size / args.num:.0f} characters each; made in {making:.0f} s")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.stage == "read":
            making = 0.0
            with open(Path(folder) / "corpus.jsonl", "w", encoding="utf-8") as file:
                for row, text in enumerate(synthetic_texts(args.num, args.chars, args.accents)):
                    file.write(json.dumps({"_id": f"doc{row}", "title": "", "text": text}) + "\n")
        before, start = peak_megabytes(), time.perf_counter()
        result = _run(args, Path(folder))
        seconds = time.perf_counter() - start - making
    print(result)
    peak = f"peak memory {peak_megabytes():.0f} MB, before {before:.0f} MB"
    print(f"{args.stage}: {seconds:.0f} s; {peak}")


if __name__ == "__main__":
    main()
