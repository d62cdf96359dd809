"""Stage 4: the hybrid teacher's score of every candidate, its weight chosen on dev queries.

Leaves WORKDIR/prep/scores.npz.
"""

import dataclasses
from typing import Any

import numpy as np

from data_prep.candidates import Candidates
from data_prep.choice import split_of
from data_prep.corpus import load_passage_texts, passages_inputs
from data_prep.generate_queries import Query, load_queries
from data_prep.hybrid import (
    DEFAULT_WEIGHT,
    MIN_QUERIES,
    WEIGHTS,
    best_weight,
    hybrid_scores,
    ndcg_by_weight,
)
from data_prep.mine import Cloze, load_cloze, split_name
from data_prep.stage import Stage, Workspace, file_fingerprints, needed, run_as_command
from ldx.errors import UserError
from ldx.files import atomic_write


def cloze_ndcg(queries: list[Query], candidates: Candidates, cloze: Cloze) -> np.ndarray:
    """nDCG@10 by weight, own passages scored without the sentences of the queries."""
    numbers = cloze.queries
    is_own = candidates.rows[numbers] == np.array([queries[i].row for i in numbers])[:, None]
    bm25, dense = candidates.bm25.copy(), candidates.dense.copy()
    bm25[numbers] = np.where(is_own, cloze.bm25[:, None], bm25[numbers])
    dense[numbers] = np.where(is_own, cloze.dense[:, None], dense[numbers])
    shortened = dataclasses.replace(candidates, bm25=bm25, dense=dense)
    return ndcg_by_weight(shortened, numbers, is_own.astype(np.float64))


def judged_ndcg(queries: list[Query], candidates: Candidates, numbers: np.ndarray) -> np.ndarray:
    """nDCG@10 by weight of queries with judgments."""
    gains = np.zeros((len(numbers), candidates.rows.shape[1]))
    for i, number in enumerate(numbers):
        for row, grade in queries[number].relevant.items():
            gains[i, candidates.rows[number] == row] = grade
    return ndcg_by_weight(candidates, numbers, gains)


def choose_weight(
    queries: list[Query], candidates: Candidates, cloze: Cloze, dev_numbers: np.ndarray
) -> tuple[float, dict[float, float], int]:
    """The weight, nDCG@10 by weight (empty when there is too little), and how many queries said so.

    No test judgment is looked at: human dev queries are measured by their training judgments,
    queries made from passages by the cloze test.
    """
    judged = np.array([i for i in dev_numbers if queries[i].relevant], np.int64)
    if len(judged) >= MIN_QUERIES:
        ndcg = judged_ndcg(queries, candidates, judged)
    elif len(cloze.queries) >= MIN_QUERIES:
        ndcg = cloze_ndcg(queries, candidates, cloze)
    else:
        return DEFAULT_WEIGHT, {}, 0
    curve = dict(zip(WEIGHTS, ndcg.mean(axis=1).tolist(), strict=True))
    return best_weight(ndcg), curve, ndcg.shape[1]


def load_weight(workspace: Workspace) -> float:
    """The weight that this stage used."""
    with np.load(needed(workspace.prep / "scores.npz", "score")) as arrays:
        return float(arrays["weight"])


def load_scores(workspace: Workspace) -> np.ndarray:
    """The teacher's scores of all candidates, float32 [Q, C]; padding is -inf."""
    with np.load(needed(workspace.prep / "scores.npz", "score")) as arrays:
        return arrays["scores"]


def _work(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config
    queries = load_queries(workspace)
    candidates = Candidates.load(needed(workspace.prep / "candidates.npz", "mine"))
    weight, num_used = config.prep.teacher_weight, 0
    curve: dict[float, float] = {}
    if weight is None:
        cloze = load_cloze(needed(workspace.prep / "cloze.npz", "mine"))
        doc_ids, _ = load_passage_texts(workspace)
        fraction, seed = config.prep.dev_fraction, config.seed
        names = [split_name(query, doc_ids) for query in queries]
        dev = [i for i, name in enumerate(names) if split_of(fraction, seed, name) == "dev"]
        weight, curve, num_used = choose_weight(queries, candidates, cloze, np.array(dev, np.int64))
    if not 0 <= weight <= 1:
        raise UserError(f"prep.teacher_weight is {weight}; wanted is a number from 0 to 1, or None")
    scores = hybrid_scores(candidates.bm25, candidates.dense, candidates.moments, weight)
    scores[candidates.rows < 0] = -np.inf
    with atomic_write(workspace.prep / "scores.npz", "wb") as file:
        np.savez(file, scores=scores, weight=weight)
    return {
        "pairs": int((candidates.rows >= 0).sum()),
        "dense weight": float(weight),
        "dev queries for the weight": num_used,
        "nDCG@10 by weight": {str(w): round(value, 4) for w, value in curve.items()},
    }


def _inputs(workspace: Workspace) -> dict[str, str]:
    passages = passages_inputs(workspace)
    paths = {
        "queries": needed(workspace.prep / "queries.jsonl", "generate_queries"),
        "candidates": needed(workspace.prep / "candidates.npz", "mine"),
        "cloze": needed(workspace.prep / "cloze.npz", "mine"),
    }
    return passages | file_fingerprints(paths)


STAGE = Stage(
    name="score",
    keys=("seed", "prep.teacher_weight", "prep.dev_fraction"),
    inputs=_inputs,
    outputs=lambda workspace: [workspace.prep / "scores.npz"],
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
