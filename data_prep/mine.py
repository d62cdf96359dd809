"""Stage 3: candidates of every training query, with the scores of all retrievers.

Leaves WORKDIR/prep/candidates/*.npz, candidates.json, order.npy, and the retrievers' indexes.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpora.passages import Passages, load_passages, passages_inputs
from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import Payload, Shard, ShardFolder, shard_key
from data_prep.pipeline.draws import draw
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, config_fingerprint, file_fingerprints, needed
from data_prep.queries.query import QUERIES_NAME, Query, QueryShard, query_shards
from data_prep.retrieval.analyzer import Analyzer
from data_prep.retrieval.candidates import CANDIDATES_NAME, ORDER_NAME, Candidates, candidate_paths
from data_prep.retrieval.fusion import Selection
from data_prep.retrieval.mining import Miner
from data_prep.retrieval.neighbours import order_queries
from data_prep.retrieval.retrievers import RetrieverKind, workspace_retrievers
from ldx.common.files import atomic_write, fingerprint, write_json
from ldx.common.types import IndexKind

MAX_SAMPLE_QUERIES = 200  # by which ScaNN's recall is measured
REPORTED_QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
KEYS = (
    "seed",
    "data.passage_template",
    "data.max_chars",
    "prep.retrievers",
    "prep.index",
    "prep.candidate_depth",
    "prep.range_min",
    "prep.range_max",
    "prep.sampling_strategy",
    "prep.num_candidates",
    "prep.shard_size",
)


def _work(workspace: Workspace) -> dict[str, Any]:
    parts, settings = query_shards(workspace), workspace.settings
    passages = load_passages(workspace)
    sample = _sample_queries([query for part in parts for query in part.queries], workspace)
    selection = Selection(
        settings.depth,
        settings.range_min,
        settings.range_max,
        settings.sampling_strategy,
        settings.num_candidates,
    )
    key = _key(workspace, passages, sample)
    shards = [
        Shard(
            part.name,
            shard_key(key, part.content()),
            len(part.queries),
            functools.partial(_payload, part.queries),
        )
        for part in parts
    ]
    folder = ShardFolder(workspace.prep / "candidates", ".npz")
    paths = folder.make(
        functools.partial(Miner, workspace, sample, selection),
        shards,
        LocalEngine(),
        description="mining",
        unit="queries",
    )
    folder.remove_stale(shards)
    order = _order(workspace, [Candidates.load(path).rows for path in paths])
    with atomic_write(workspace.prep / ORDER_NAME, "wb") as file:
        np.save(file, order)
    index = {
        "shards": {s.name: p.name for s, p in zip(shards, paths, strict=True)},
        "content": fingerprint(*paths),
    }
    write_json(workspace.prep / CANDIDATES_NAME, index)
    return _report(workspace, parts, paths)


def _sample_queries(queries: Sequence[Query], workspace: Workspace) -> list[str]:
    """The texts of some queries, by which ScaNN's recall is measured."""
    seed = workspace.config.seed
    ordered = sorted(queries, key=lambda query: draw(seed, "sample", query.query_id))
    return [query.text for query in ordered[:MAX_SAMPLE_QUERIES]]


def _payload(queries: Sequence[Query]) -> Payload:
    return {
        "texts": [query.text for query in queries],
        "query_ids": [query.query_id for query in queries],
        "needed_rows": [query.needed_rows for query in queries],
    }


def _key(workspace: Workspace, passages: Passages, sample: Sequence[str]) -> str:
    """A hash of everything that the candidates of a query depend on, beside the query."""
    from ldx.retrieval.search import MIN_SCANN_PASSAGES  # imports JAX

    index = workspace.settings.index
    may_use_scann = index == IndexKind.AUTO and len(passages.texts) >= MIN_SCANN_PASSAGES
    tuned_by = sample if may_use_scann or index == IndexKind.SCANN else ()
    return fingerprint(
        config_fingerprint(workspace, KEYS),
        repr(sorted(_retriever_inputs(workspace).items())),
        passages.key,
        Analyzer(workspace.settings.language).key,
        passages.roles.excluded.tobytes(),
        *tuned_by,
    )


def _order(workspace: Workspace, rows: list[np.ndarray]) -> np.ndarray:
    """A place for every query, near similar ones; its number where no retriever is dense."""
    sections = workspace_retrievers(workspace)
    dense = [name for name, section in sections.items() if section.kind is RetrieverKind.DENSE]
    paths = [workspace.prep / "embeddings" / name / "passages.npy" for name in dense[:1]]
    if not paths or not paths[0].is_file():
        return np.arange(sum(map(len, rows)))
    return order_queries(rows, np.load(paths[0], mmap_mode="r"))


def _report(
    workspace: Workspace, parts: Sequence[QueryShard], paths: Sequence[Path]
) -> dict[str, Any]:
    """Counts of candidates, and quantiles of every retriever's scores of them."""
    counts = dict.fromkeys(("queries", "candidates", "own passage not found"), 0)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in workspace.settings.retrievers}
    for part, path in zip(parts, paths, strict=True):
        candidates = Candidates.load(path)
        is_candidate = candidates.rows >= 0
        own = np.array([query.row for query in part.queries])
        counts["queries"] += len(candidates)
        counts["candidates"] += int(is_candidate.sum())
        counts["own passage not found"] += int(((own >= 0) & (candidates.rank_of(own) == 0)).sum())
        for number, values in enumerate(scores.values()):
            values.append(candidates.scores[:, number][is_candidate])
    quantiles = {
        name: np.quantile(np.concatenate(values), REPORTED_QUANTILES).round(4).tolist()
        for name, values in scores.items()
    }
    return {**counts, "quantiles": {"of": list(REPORTED_QUANTILES), **quantiles}}


def _retriever_inputs(workspace: Workspace) -> dict[str, str]:
    sections = workspace_retrievers(workspace)
    return {f"retriever {name}": section.fingerprint() for name, section in sections.items()}


def _inputs(workspace: Workspace) -> dict[str, str]:
    inputs = passages_inputs(workspace)
    paths = {"queries": needed(workspace.prep / QUERIES_NAME, "generate_queries")}
    inputs["terms"] = Analyzer(workspace.settings.language).key
    return inputs | file_fingerprints(paths) | _retriever_inputs(workspace)


def _outputs(workspace: Workspace) -> list[Path]:
    index = workspace.prep / CANDIDATES_NAME
    paths = candidate_paths(workspace).values() if index.is_file() else ()
    return [index, workspace.prep / ORDER_NAME, *paths]


STAGE = Stage(
    name="mine",
    keys=KEYS,
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
