"""Makes the benchmark's BM25 lists; tests/benchmarks/lists.py reads them, and is the command."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.base import MINILM
from data_prep.queries.extractive import SENTENCE_WORDS, split_sentences
from data_prep.retrieval.bm25 import Bm25
from ldx.common.errors import UserError
from ldx.common.progress import progress_bar
from ldx.eval.beir import Corpus, read_corpus
from ldx.models.locate import resolve_model_path
from ldx.models.tokenizer import Tokenizer
from ldx.records.schema import passage_text
from tests.benchmarks.lists import BenchmarkLists, StoredTexts, save

COLLECTIONS = ("nfcorpus", "scifact")
NUM_LISTS = 4096
LIST_SIZE = 20
SENTENCES_A_PASSAGE = 6  # as many as CADET has queries of a passage
CHUNK = 256  # queries searched at once


@dataclass(frozen=True, eq=False)
class Found:
    """Lists as a search finds them.

    Attributes:
      queries: the text of each list's query.
      rows: int32 [N, L], the query's own passage first, the others in order of their scores.
      scores: float32 [N, L], BM25's; the own passage has its list's highest.
    """

    queries: list[str]
    rows: np.ndarray
    scores: np.ndarray


def make_lists(
    root: str | Path, *, num_lists: int = NUM_LISTS, list_size: int = LIST_SIZE, seed: int = 0
) -> BenchmarkLists:
    """BM25 lists of a collection in BEIR layout, for sentences of its own passages.

    Teacher scores are BM25's, scaled as CADET scales its teachers': (s − p1) / (p99 − p1), clipped
    to [0, 1].

    Raises:
      UserError: the collection gives fewer lists.
    """
    corpus = read_corpus(root)
    texts = list(map(passage_text, corpus.titles, corpus.texts))
    found = find_lists(texts, *draw_sentences(corpus, seed), num_lists, list_size)
    if len(found.queries) < num_lists:
        raise UserError(f"{root}: gives {len(found.queries)} lists, wanted are {num_lists}")
    number = {text: i for i, text in enumerate(dict.fromkeys(found.queries))}
    tokenizer = Tokenizer(resolve_model_path(MINILM))
    return BenchmarkLists(
        passages=StoredTexts.of(tokenizer.encode(texts)),
        queries=StoredTexts.of(tokenizer.encode(list(number))),
        rows=found.rows,
        teacher_scores=calibrated(found.scores),
        query=np.array([number[text] for text in found.queries], np.int32),
        prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
        pad_id=tokenizer.pad_id,
    )


def draw_sentences(corpus: Corpus, seed: int) -> tuple[list[str], np.ndarray]:
    """At most SENTENCES_A_PASSAGE sentences of each passage, all shuffled, and their passages.

    Returns:
      the sentences, and int32 [number of sentences], the row that each comes from.
    """
    rng = np.random.default_rng(seed)
    low, high = SENTENCE_WORDS
    sentences, sources = [], []
    for row, text in enumerate(progress_bar(corpus.texts, desc="Sentences", unit="passage")):
        fitting = [s for s in split_sentences(text) if low <= len(s.split()) <= high]
        chosen = rng.permutation(len(fitting))[:SENTENCES_A_PASSAGE]
        sentences += [fitting[i] for i in chosen]
        sources += [row] * len(chosen)
    order = rng.permutation(len(sentences))
    return [sentences[i] for i in order], np.array(sources, np.int32)[order]


def find_lists(
    texts: list[str], queries: list[str], sources: np.ndarray, num_lists: int, list_size: int
) -> Found:
    """BM25's best `list_size` passages of each query, until there are `num_lists` lists.

    A query stays when its own passage is among them and each of them shares a word with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        bm25 = Bm25.open_or_build(folder, texts, key="texts", language="english")
        return _find_lists(bm25, queries, sources, num_lists, list_size)


def _find_lists(
    bm25: Bm25, queries: list[str], sources: np.ndarray, num_lists: int, list_size: int
) -> Found:
    kept: list[str] = []
    parts = [(np.zeros((0, list_size), np.int32), np.zeros((0, list_size), np.float32))]
    with progress_bar(total=num_lists, desc="BM25 lists", unit="list") as bar:
        for start in range(0, len(queries), CHUNK):
            chunk = slice(start, start + CHUNK)
            found = np.zeros((len(queries[chunk]), bm25.num_passages), np.float32)
            for row, matches in zip(found, bm25.match_all(queries[chunk]), strict=True):
                row[matches.rows] = matches.scores
            stays, rows, scores = own_first(found, sources[chunk], list_size)
            kept += [queries[start + i] for i in np.flatnonzero(stays)]
            parts.append((rows, scores))
            bar.update(min(len(rows), num_lists - bar.n))
            if len(kept) >= num_lists:
                break
    rows, scores = (np.concatenate(arrays)[:num_lists] for arrays in zip(*parts, strict=True))
    return Found(kept[:num_lists], rows, scores)


def own_first(
    scores: np.ndarray, sources: np.ndarray, list_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lists of queries whose own passage is among the best; it goes first.

    Args:
      scores: float32 [Q, P].
      sources: int32 [Q], the own passage of each query.
      list_size: L.

    Returns:
      bool [Q], whether a query stays; and of those that do, rows int32 [n, L] and scores
      float32 [n, L], descending; the own passage gets its list's highest score.
    """
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :list_size].astype(np.int32)
    best = np.take_along_axis(scores, rows, axis=1)
    is_own = rows == sources[:, None]
    stays = is_own.any(axis=1) & (best[:, -1] > 0)
    rows, best, is_own = rows[stays], best[stays], is_own[stays]
    order = np.argsort(~is_own, axis=1, kind="stable")
    highest = best[:, 0]
    best = np.take_along_axis(best, order, axis=1)
    best[:, 0] = highest
    return stays, np.take_along_axis(rows, order, axis=1), best


def calibrated(scores: np.ndarray) -> np.ndarray:
    """Scores of a collection's lists, scaled to [0, 1] by their 1st and 99th percentiles."""
    low, high = np.percentile(scores, (1, 99))
    return np.clip((scores - low) / (high - low), 0, 1).astype(np.float32)


def describe(lists: BenchmarkLists) -> str:
    """The sizes of one collection's lists, in a line."""
    lengths = lists.passages.lengths
    return (
        f"{len(lists)} lists of {lists.list_size}, {len(lists.queries)} query texts, "
        f"{len(np.unique(lists.rows))} of {len(lists.passages)} passages in lists, "
        f"{lengths.mean():.0f} tokens a passage (at most {lengths.max()})"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write DIR/NAME.npz for each collection in $LDX_DATA_DIR."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lists")
    parser.add_argument("--output", required=True, help="folder for NAME.npz")
    parser.add_argument("--collections", nargs="+", default=COLLECTIONS, help="folders' names")
    arguments = parser.parse_args(argv)
    data = os.environ.get("LDX_DATA_DIR")
    if not data:
        parser.error("LDX_DATA_DIR is not set; it names the folder of the collections")
    try:
        for name in arguments.collections:
            lists = make_lists(Path(data) / name)
            path = Path(arguments.output) / f"{name}.npz"
            save(path, lists)
            print(f"{path}: {describe(lists)}", file=sys.stderr)
    except UserError as error:
        parser.error(str(error))
