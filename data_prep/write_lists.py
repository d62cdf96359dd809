"""Stage 5: filters, calibration and split; the lists the trainer reads, and the manifest.

Leaves RECORDS/lists and RECORDS/manifest.json.
"""

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.calibrate import Filters, Scale, apply_filters, list_columns, own_columns
from data_prep.candidates import Candidates
from data_prep.choice import split_of
from data_prep.corpus import load_passage_texts, passages_inputs
from data_prep.generate_queries import HUMAN, Query, load_queries
from data_prep.mine import load_order, split_name
from data_prep.score import load_scores, load_weight
from data_prep.stage import (
    Stage,
    Workspace,
    file_fingerprints,
    needed,
    run_as_command,
    stage_counts,
)
from ldx.data.records import Manifest, count_passages, records_fingerprint, write_lists
from ldx.data.schema import ListRecord
from ldx.data.tfds_layout import record_files
from ldx.errors import UserError

UNJUDGED = -1
ORDER_KEY = "the place of the query in an order of all by the mean embedding of their candidates"
VERSIONED = ("ldx", "numpy", "bm25s", "jax")


def make_lists(
    queries: list[Query],
    candidates: Candidates,
    scores: np.ndarray,
    filters: Filters,
    collection: str,
    order: np.ndarray,
) -> tuple[list[ListRecord], dict[str, dict[str, int]], dict[str, Scale]]:
    """The lists that pass, in the order of the queries; yields and scales by query type.

    `order` is the place of every query among its neighbours.
    """
    is_own = own_columns(candidates.rows, [query.row for query in queries])
    types = np.array([query.query_type for query in queries])
    records: dict[int, ListRecord] = {}
    yields, scales = {}, {}
    for query_type in sorted(set(types.tolist())):
        numbers = np.flatnonzero(types == query_type)
        human = query_type == HUMAN
        keep, yields[query_type] = apply_filters(
            scores[numbers],
            candidates.fused_rank[numbers],
            is_own[numbers],
            filters,
            human=human,
        )
        passed = numbers[keep]
        if not len(passed):
            continue
        scored = scores[passed]
        scale = scales[query_type] = Scale.fit(scored[np.isfinite(scored)])
        for number in passed:
            grades = _grades(queries[number], candidates.rows[number])
            columns = list_columns(scores[number], grades, filters.list_size, human=human)
            records[int(number)] = _record(
                queries[number],
                collection,
                rows=candidates.rows[number, columns],
                grades=grades[columns],
                teacher_scores=scale(scores[number, columns]),
                raw_scores=np.stack(
                    [candidates.dense[number, columns], candidates.bm25[number, columns]]
                ),
                order_key=int(order[number]),
            )
    return [records[number] for number in sorted(records)], yields, scales


def _grades(query: Query, rows: np.ndarray) -> np.ndarray:
    if query.row >= 0:
        return (rows == query.row).astype(np.int32)
    return np.array([query.relevant.get(int(row), 0) for row in rows], np.int32)


def _record(
    query: Query,
    collection: str,
    *,
    rows: np.ndarray,
    grades: np.ndarray,
    teacher_scores: np.ndarray,
    raw_scores: np.ndarray,
    order_key: int,
) -> ListRecord:
    # The passage a query was made from is the positive by its place, not by anyone's judgment.
    is_judged = grades > 0 if query.row < 0 else np.zeros(len(rows), bool)
    return ListRecord(
        list_id=f"{collection}/{query.query_id}",
        query_id=query.query_id,
        query=query.text,
        query_type=query.query_type,
        source=collection,
        source_row=query.row,
        rows=rows.astype(np.int64),
        labels=np.where(is_judged, grades, UNJUDGED).astype(np.int32),
        teacher_scores=teacher_scores,
        raw_scores=raw_scores.ravel().astype(np.float32),
        order_key=order_key,
    )


def _split(
    records: Iterable[ListRecord], name_of: dict[str, str], fraction: float, seed: int
) -> dict[str, list[ListRecord]]:
    splits: dict[str, list[ListRecord]] = {"train": [], "dev": []}
    for record in records:
        splits[split_of(fraction, seed, name_of[record.query_id])].append(record)
    return splits


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _work(workspace: Workspace) -> dict[str, Any]:
    config, prep = workspace.config, workspace.config.prep
    doc_ids, _ = load_passage_texts(workspace)
    queries = load_queries(workspace)
    candidates = Candidates.load(needed(workspace.prep / "candidates.npz", "mine"))
    filters = Filters(
        prep.list_size, prep.rank_limit, prep.require_own_first, prep.min_top_score_percentile
    )
    records, yields, scales = make_lists(
        queries,
        candidates,
        load_scores(workspace),
        filters,
        workspace.collection,
        load_order(workspace),
    )
    name_of = {query.query_id: split_name(query, doc_ids) for query in queries}
    splits = _split(records, name_of, prep.dev_fraction, config.seed)
    for split, lists in splits.items():
        if not lists:
            raise UserError(
                f"no {split} lists: of each query type stay {yields}; "
                "loosen prep.rank_limit, prep.require_own_first or prep.list_size, or change "
                "prep.dev_fraction"
            )
    num_lists = write_lists(workspace.records, splits)
    _write_manifest(workspace, num_lists, yields, scales)
    kept = {name: f"{list(x.values())[-1]} of {x['queries']}" for name, x in yields.items()}
    return {split: len(lists) for split, lists in splits.items()} | kept | {"yields": yields}


def _write_manifest(
    workspace: Workspace,
    num_lists: dict[str, dict[str, int]],
    yields: dict[str, dict[str, int]],
    scales: dict[str, Scale],
) -> None:
    data = workspace.config.data
    weight = load_weight(workspace)
    earlier = stage_counts(workspace, ("corpus", "generate_queries", "mine", "score"))
    Manifest(
        collection=workspace.collection,
        num_passages=count_passages(workspace.records),
        num_lists=num_lists,
        fingerprints={
            name: records_fingerprint(workspace.records, name) for name in ("passages", "lists")
        },
        passage_template=data.passage_template,
        max_chars=data.max_chars,
        teachers=[
            {"name": "dense", "model": workspace.config.model.path, "weight": weight},
            {"name": "bm25", "weight": 1 - weight},
        ],
        seed=workspace.config.seed,
        calibration={
            "fusion": "weighted sum of z-scores, for each query over the whole corpus",
            "method": "percentiles 1 and 99 to 0 and 1, by query type, clipped",
            "scales": {name: [scale.low, scale.high] for name, scale in scales.items()},
        },
        order_key=ORDER_KEY,
        yields=earlier | {"write_lists": yields},
        versions=_versions(),
    ).write(workspace.records)


def _inputs(workspace: Workspace) -> dict[str, str]:
    passages = passages_inputs(workspace)
    paths = {
        "queries": needed(workspace.prep / "queries.jsonl", "generate_queries"),
        "candidates": needed(workspace.prep / "candidates.npz", "mine"),
        "order": needed(workspace.prep / "order.npy", "mine"),
        "scores": needed(workspace.prep / "scores.npz", "score"),
    }
    return passages | file_fingerprints(paths)


def _outputs(workspace: Workspace) -> list[Path]:
    manifest = workspace.records / "manifest.json"
    lists = record_files(workspace.records, "lists") if manifest.is_file() else []
    return [manifest, *lists]


STAGE = Stage(
    name="write_lists",
    keys=(
        "seed",
        "data.root",
        "data.records",
        "data.passage_template",
        "data.max_chars",
        "prep.dev_fraction",
        "prep.list_size",
        "prep.rank_limit",
        "prep.require_own_first",
        "prep.min_top_score_percentile",
    ),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
