"""Stage 3: candidates of every training query, with the scores of both retrievers.

Leaves WORKDIR/prep/candidates.npz, cloze.npz, order.npy and the embeddings of the corpus.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.bm25 import Bm25
from data_prep.candidates import find_candidates
from data_prep.choice import draw, split_of
from data_prep.corpus import load_held_out, load_passage_texts, passages_inputs
from data_prep.dense import EmbeddingStore, model_fingerprint
from data_prep.extractive import remove_sentence
from data_prep.generate_queries import Query, load_queries
from data_prep.neighbours import neighbour_order
from data_prep.stage import Stage, Workspace, file_fingerprints, needed, run_as_command
from ldx.files import atomic_write

MAX_CLOZE_QUERIES = 512
NUM_MEAN_CANDIDATES = 20  # whose mean embedding stands for a query's list
OUTPUTS = ("candidates.npz", "cloze.npz", "order.npy")


@dataclass(frozen=True, eq=False)
class Cloze:
    """Dev queries against their own passage WITHOUT the sentence they were cut from.

    With the sentence in place a query finds its passage by its very words, and BM25 looks perfect;
    people's queries are not verbatim. (The inverse cloze task of Lee et al., ACL 2019.)

    Attributes:
      queries: int32 [n], numbers of the queries.
      bm25: float32 [n], scores of the shortened passages.
      dense: float32 [n].
    """

    queries: np.ndarray
    bm25: np.ndarray
    dense: np.ndarray


def load_cloze(path: Path) -> Cloze:
    """What this stage left."""
    with np.load(path) as arrays:
        return Cloze(**{name: arrays[name] for name in arrays.files})


def load_order(workspace: Workspace) -> np.ndarray:
    """The place of every query in the order of `order_queries`, int64 [number of queries]."""
    return np.load(needed(workspace.prep / "order.npy", "mine"))


def order_queries(rows: np.ndarray, passage_embeddings: np.ndarray) -> np.ndarray:
    """The place of every query among those whose candidates are alike, int64 [Q].

    Queries stand near each other (`neighbour_order`) by the mean embedding of their first
    candidates. That saves more passages than to go by the first candidate alone.

    Args:
      rows: candidates by passage, int [Q, C], best first; -1 is padding.
      passage_embeddings: [N, D].
    """
    means = np.zeros((len(rows), passage_embeddings.shape[1]), np.float32)
    for number, candidates in enumerate(rows[:, :NUM_MEAN_CANDIDATES]):
        means[number] = passage_embeddings[candidates[candidates >= 0]].mean(axis=0)
    return neighbour_order(means)


def split_name(query: Query, doc_ids: list[str]) -> str:
    """The passage that decides a query's split: its source, or a human's best (ties: the first)."""
    if query.row >= 0:
        return doc_ids[query.row]
    best = max(query.relevant.values())
    return doc_ids[min(row for row, grade in query.relevant.items() if grade == best)]


def make_cloze(
    queries: list[Query],
    numbers: list[int],
    texts: list[str],
    bm25: Bm25,
    query_embeddings: np.ndarray,
    store: EmbeddingStore,
) -> Cloze:
    """Score the queries of `numbers` whose sentence can be found in their passage."""
    shortened = {
        i: remove_sentence(texts[queries[i].row], queries[i].excerpt)
        for i in numbers
        if queries[i].excerpt
    }
    shortened = {i: text for i, text in shortened.items() if text != texts[queries[i].row]}
    if not shortened:
        return Cloze(np.zeros(0, np.int32), *np.zeros((2, 0), np.float32))
    chosen = np.array(list(shortened), np.int32)
    rest = list(shortened.values())
    embeddings = store.get("shortened passages", rest, "passage")
    dense = np.einsum("nd,nd->n", query_embeddings[chosen], embeddings)
    return Cloze(chosen, bm25.pair_scores([queries[i].text for i in chosen], rest), dense)


def _dev_numbers(workspace: Workspace, queries: list[Query], doc_ids: list[str]) -> list[int]:
    seed, fraction = workspace.config.seed, workspace.config.prep.dev_fraction
    names = [split_name(query, doc_ids) for query in queries]
    dev = [i for i, name in enumerate(names) if split_of(fraction, seed, name) == "dev"]
    dev.sort(key=lambda i: draw(seed, "cloze", queries[i].query_id))
    return sorted(dev[:MAX_CLOZE_QUERIES])


def _work(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config
    doc_ids, texts = load_passage_texts(workspace)
    queries = load_queries(workspace)
    bm25 = Bm25(texts)
    store = EmbeddingStore(workspace.prep / "embeddings", config)
    passage_embeddings = store.get("passages", texts, "passage")
    query_texts = [query.text for query in queries]
    query_embeddings = store.get("queries", query_texts, "query")
    candidates = find_candidates(
        query_texts,
        bm25,
        query_embeddings,
        passage_embeddings,
        depth=config.prep.candidate_depth,
        excluded=load_held_out(workspace),
        added=[list(query.relevant) or [query.row] for query in queries],
    )
    numbers = _dev_numbers(workspace, queries, doc_ids)
    cloze = make_cloze(queries, numbers, texts, bm25, query_embeddings, store)
    candidates.save(workspace.prep / "candidates.npz")
    with atomic_write(workspace.prep / "cloze.npz", "wb") as file:
        np.savez(file, **vars(cloze))
    with atomic_write(workspace.prep / "order.npy", "wb") as file:
        np.save(file, order_queries(candidates.rows, passage_embeddings))
    found = np.array([query.row for query in queries])[:, None] == candidates.rows
    missed = int((found & (candidates.fused_rank == 0)).sum())
    return {
        "queries": len(queries),
        "candidates": int((candidates.rows >= 0).sum()),
        "own passage not found": missed,
        "cloze queries": len(cloze.queries),
    }


def _inputs(workspace: Workspace) -> dict[str, str]:
    passages = passages_inputs(workspace)
    paths = {"queries": needed(workspace.prep / "queries.jsonl", "generate_queries")}
    model = {"model": model_fingerprint(workspace.config.model)}
    return passages | file_fingerprints(paths) | model


STAGE = Stage(
    name="mine",
    keys=(
        "seed",
        "data.passage_template",
        "data.max_chars",
        "prep.candidate_depth",
        "prep.dev_fraction",
    ),
    inputs=_inputs,
    outputs=lambda workspace: [workspace.prep / name for name in OUTPUTS],
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
