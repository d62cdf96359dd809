"""Distinct passages of a batch: lists drawn together with their neighbours, or at random.

    python -m tests.benchmarks.overlap --json=FILE [--collections NAME ...]

The lists are BM25's best 20 passages for sentences of the collection's own, and are drawn as in
training: sorted by their order_key, cut into blocks of neighbours, blocks shuffled. Fewer distinct
passages are less to embed. The orders compared are

- random: blocks of one list;
- row: order_key is the row of the list's first passage;
- neighbours: its place by data_prep.retrieval.neighbours;
- list means: lists themselves in such an order, by the mean embedding of their passages, which is
  what data_prep writes (of the candidates of a list's query).
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.base import MINILM
from data_prep.retrieval.neighbours import neighbour_order
from ldx.data.pipeline import shuffle_blocks
from ldx.eval.beir import Corpus, read_corpus
from ldx.models.student import load_student
from ldx.records.schema import passage_text
from ldx.retrieval.encoder import Encoder
from tests.benchmarks.make_lists import draw_sentences, find_lists
from tests.benchmarks.table import Case, write_json

COLLECTIONS = ("nfcorpus", "scifact")
LIST_SIZE = 20
LISTS_A_PASSAGE = (1, 6)  # at most
BATCH_SIZES = (64, 256, 1024)
BLOCK_SIZES = (8, 32)  # and whole batches
PASSAGE_MAX_LENGTH = 128
NUM_EPOCHS = 3


def embed(texts: Sequence[str]) -> np.ndarray:
    """Embeddings of passages by MiniLM, float32 [N, D]."""
    student = load_student(MINILM, passage_max_length=PASSAGE_MAX_LENGTH)
    return Encoder(student).encode(student.params, texts, kind="passage", description="passages")


def find_rows(corpus: Corpus, texts: list[str]) -> np.ndarray:
    """Lists of a collection's sentences, the passage of each first, int32 [number of lists, 20]."""
    sentences, sources = draw_sentences(corpus, 0)
    return find_lists(texts, sentences, sources, len(sentences), LIST_SIZE).rows


def thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """The lists without those whose first passage is the first of `most` lists before."""
    order = np.argsort(rows[:, 0], kind="stable")
    first = rows[order, 0]
    number = np.arange(len(rows)) - np.searchsorted(first, first)
    return rows[np.sort(order[number < most])]


def order_keys(rows: np.ndarray, embeddings: np.ndarray) -> dict[str, np.ndarray]:
    """An order_key for each list, int64 [number of lists], by the name of the order."""
    means = np.stack([embeddings[row].mean(axis=0) for row in rows])
    return {
        "row": rows[:, 0],
        "neighbours": neighbour_order(embeddings)[rows[:, 0]],
        "list means": neighbour_order(means),
    }


def distinct(rows: np.ndarray, order_key: np.ndarray, batch_size: int, block_size: int) -> float:
    """The mean number of distinct passages in the whole batches of some epochs."""
    counts = []
    for epoch in range(NUM_EPOCHS):
        order = shuffle_blocks(order_key, block_size, np.random.default_rng(epoch))
        stops = range(batch_size, len(rows) + 1, batch_size)
        counts += [len(np.unique(rows[order[stop - batch_size : stop]])) for stop in stops]
    return float(np.mean(counts))


def compare(
    name: str, rows: np.ndarray, keys: dict[str, np.ndarray], batch_size: int
) -> dict[str, list[Case]]:
    """Each order beside random batches, a case for each size of a block."""
    reference = distinct(rows, keys["row"], batch_size, 1)

    def case(order: str, block_size: int) -> Case:
        ours = distinct(rows, keys[order], batch_size, block_size)
        what = f"{name}, {order}, batch {batch_size}, block {block_size}"
        return Case("overlap", what, round(ours, 1), round(reference, 1), "distinct passages")

    sizes = (*BLOCK_SIZES, batch_size)
    return {order: [case(order, block_size) for block_size in sizes] for order in keys}


def print_cases(by_batch: dict[int, dict[str, list[Case]]]) -> None:
    """A line an order: how many times fewer passages than in random batches."""
    sizes = [f"{size}/{block}" for size in by_batch for block in (*BLOCK_SIZES, size)]
    by_order: dict[str, list[Case]] = {}
    for cases in by_batch.values():
        for order, some in cases.items():
            by_order[order] = by_order.get(order, []) + some
    print(f"{'batch/block':12}" + "".join(f"{size:>11}" for size in sizes))
    random = [case.reference for case in by_order["row"]]
    print(f"{'random':12}" + "".join(f"{number:11.0f}" for number in random))
    for order, cases in by_order.items():
        print(f"{order:12}" + "".join(f"{case.ratio:10.2f}x" for case in cases), flush=True)


def measure(collection: str, root: Path) -> list[Case]:
    """All cases of a collection, and its tables."""
    corpus = read_corpus(root)
    texts = list(map(passage_text, corpus.titles, corpus.texts))
    embeddings, all_rows = embed(texts), find_rows(corpus, texts)
    measured = []
    for most in LISTS_A_PASSAGE:
        rows = thinned(all_rows, most)
        name = f"{collection}, {len(texts)} passages, {len(rows)} lists"
        keys = order_keys(rows, embeddings)
        sizes = [size for size in BATCH_SIZES if size <= len(rows)]
        by_batch = {size: compare(name, rows, keys, size) for size in sizes}
        print(f"{name}: distinct passages of random batches; how many times fewer")
        print_cases(by_batch)
        measured += [case for each in by_batch.values() for some in each.values() for case in some]
    return measured


def main(argv: Sequence[str] | None = None) -> None:
    """Compare on each collection, print tables and write the rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.overlap")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--collections", nargs="+", default=COLLECTIONS, help="folders' names")
    arguments = parser.parse_args(argv)
    if not os.environ.get("LDX_DATA_DIR"):
        parser.error("LDX_DATA_DIR is not set; it names the folder of the collections")
    root = Path(os.environ["LDX_DATA_DIR"])
    cases = [case for name in arguments.collections for case in measure(name, root / name)]
    write_json(arguments.json, [case.row() for case in cases])


if __name__ == "__main__":
    main()
