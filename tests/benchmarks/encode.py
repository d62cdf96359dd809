"""Documents a second, ldx beside sentence-transformers: the same model on the same passages.

    python -m tests.benchmarks.encode --json=FILE [--num-texts=N] [--max-length=L]

Float32 on a CPU, bfloat16 on a GPU if JAX has one. Both libraries sort by length; the reference is
run with several batch sizes, and the fastest counts. What is compiled is compiled before. On a
machine that others use too, --cpus=1 --clock=cpu counts the seconds of one processor instead of
those of the wall: under load PyTorch's threads wait for each other more than JAX's do.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from configs.base import MINILM
from ldx.eval.beir import CorpusTexts, read_corpus
from ldx.models.locate import resolve_model_path
from ldx.models.student import load_student
from ldx.retrieval.encoder import Encoder
from tests.benchmarks.table import (
    Case,
    Row,
    machine_description,
    median_interleaved,
    print_table,
    write_json,
)

COLLECTIONS = ("nfcorpus", "scifact")
NUM_TEXTS_ON_CPU = 256
BATCH_SIZES = {"cpu": (8, 32, 128), "gpu": (32, 128, 512)}
DTYPES = {"cpu": "float32", "gpu": "bfloat16"}
REPEATS = 3
TOLERANCE = 1e-4  # of float32 embeddings
LEAST_COSINE = 0.99  # of bfloat16 embeddings
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Encode = Callable[[list[str]], np.ndarray]


def our_encode(
    max_length: int | None, microbatch_tokens: int | None, dtype: str
) -> tuple[Encode, int]:
    """ldx as a function of texts, and the length that it cuts them at."""
    student = load_student(
        MINILM, query_max_length=max_length, passage_max_length=max_length, dtype=dtype
    )
    encoder = Encoder(student, microbatch_tokens=microbatch_tokens)

    def encode(texts: list[str]) -> np.ndarray:
        return encoder.encode(student.params, texts, kind="passage")

    return encode, student.config.passage_max_length


def reference_encodes(backend: str, max_length: int, dtype: str) -> dict[int, Encode]:
    """sentence-transformers as a function of texts, by batch size."""
    model = SentenceTransformer(
        str(resolve_model_path(MINILM)),
        device="cuda" if backend == "gpu" else "cpu",
        model_kwargs={"attn_implementation": "sdpa", "dtype": getattr(torch, dtype)},
    )
    model.max_seq_length = max_length

    def encode_with(batch_size: int) -> Encode:
        return lambda texts: model.encode(texts, batch_size=batch_size, show_progress_bar=False)

    return {size: encode_with(size) for size in BATCH_SIZES[backend]}


def check_equal(ours: np.ndarray, reference: np.ndarray, dtype: str) -> None:
    """Refuse to compare the speed of different results."""
    ours, reference = ours.astype(np.float32), reference.astype(np.float32)
    difference = float(np.abs(ours - reference).max())
    cosine = float((ours * reference).sum(axis=1).min())  # both have norm 1
    print(f"largest difference {difference:.1e}, least cosine {cosine:.6f}", flush=True)
    if dtype == "float32":
        assert difference <= TOLERANCE, difference
    else:
        assert cosine >= LEAST_COSINE, cosine


def compare(
    name: str, texts: list[str], ours: Encode, references: dict[int, Encode], dtype: str, clock: str
) -> Case:
    """Both libraries on some texts, in turn."""
    check_equal(ours(texts), next(iter(references.values()))(texts), dtype)  # warms both up

    def rate(encode: Encode) -> Callable[[], float]:
        def run() -> float:
            start = CLOCKS[clock]()
            encode(texts)
            return len(texts) / (CLOCKS[clock]() - start)

        return run

    functions = {"ldx": rate(ours)} | {str(k): rate(encode) for k, encode in references.items()}
    measured = median_interleaved(functions, REPEATS)
    rates = {key: [round(x, 2) for x in value.values] for key, value in measured.items()}
    medians = {key: value.median for key, value in measured.items() if key != "ldx"}
    best = max(medians, key=lambda key: medians[key])
    extra: dict[str, Any] = {"reference_batch_size": int(best), "clock": clock, "all_rates": rates}
    ours_rate, unit = measured["ldx"].median, "docs/s"
    return Case("encode", name, ours_rate, medians[best], unit, higher_is_better=True, extra=extra)


def sample_texts(root: Path, num_texts: int | None) -> list[str]:
    """Passages of a collection drawn at random; None means all."""
    texts = CorpusTexts(read_corpus(root), "{title} {text}")
    order = np.random.default_rng(0).permutation(len(texts))[:num_texts]
    return [texts[row] for row in order]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.encode")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--num-texts", type=int, help="of each collection; on a GPU all")
    parser.add_argument("--max-length", type=int, help="tokens; the model's own")
    parser.add_argument("--microbatch-tokens", type=int, help="of ldx; the device's own")
    parser.add_argument("--cpus", type=int, help="processors to use; all")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--collections", nargs="+", default=COLLECTIONS, help="folders' names")
    arguments = parser.parse_args(argv)
    if not os.environ.get("LDX_DATA_DIR"):
        parser.error("LDX_DATA_DIR is not set; it names the folder of the collections")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Compare on each collection, print a table and write its rows."""
    arguments = parse(argv)
    if arguments.cpus:
        # Before JAX and PyTorch start their threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cpus])
        torch.set_num_threads(arguments.cpus)
    backend = "gpu" if jax.default_backend() == "gpu" else "cpu"
    dtype = DTYPES[backend]
    num_texts = arguments.num_texts or (NUM_TEXTS_ON_CPU if backend == "cpu" else None)
    ours, max_length = our_encode(arguments.max_length, arguments.microbatch_tokens, dtype)
    references = reference_encodes(backend, max_length, dtype)
    rows: list[Row] = []
    for collection in arguments.collections:
        texts = sample_texts(Path(os.environ["LDX_DATA_DIR"]) / collection, num_texts)
        name = f"{collection}, {len(texts)} texts, {max_length} tokens, {dtype}"
        case = compare(name, texts, ours, references, dtype, arguments.clock)
        rows.append(case.row() | {"machine": machine_description()})
    print_table(rows)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
