"""Stage 3: candidates of every training query, with the scores of all retrievers.

Leaves WORKDIR/prep/candidates/*.npz, candidates.json, order.npy, and the retrievers' indexes.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpora.passages import load_passages, passages_inputs
from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import Made, Payload, Shard, ShardFolder, shard_key
from data_prep.pipeline.draws import draw
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, config_fingerprint, file_fingerprints, needed
from data_prep.queries.query import QUERIES_NAME, Query, QueryShard, query_shards
from data_prep.retrieval.candidates import CANDIDATES_NAME, Candidates, candidate_paths
from data_prep.retrieval.dense import model_fingerprint
from data_prep.retrieval.fusion import Selection, make_candidates
from data_prep.retrieval.neighbours import neighbour_order
from data_prep.retrieval.retrievers import open_retrievers, retriever_sections
from ldx.common.files import atomic_write, fingerprint, write_json
from ldx.retrieval.search import MIN_SCANN_PASSAGES

NUM_SAMPLE_QUERIES = 200  # of which ScaNN's recall is measured
NUM_MEAN_CANDIDATES = 20  # whose mean embedding stands for a query's list
QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
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


class Miner:
    """Finds the candidates of one shard of queries after another."""

    def __init__(self, workspace: Workspace, sample_queries: Sequence[str], selection: Selection):
        passages = load_passages(workspace)
        self._retrievers = open_retrievers(workspace, passages, sample_queries)
        self._selection = selection

    def __call__(self, payload: Payload) -> Made:
        """The candidates of `payload["queries"]`, as an .npz file."""
        queries: list[Query] = payload["queries"]
        found = [
            retriever.find([q.text for q in queries], [q.query_id for q in queries])
            for retriever in self._retrievers.values()
        ]
        added = [query.needed_rows for query in queries]
        return Made(make_candidates(found, added, self._selection).to_bytes())


def order_queries(rows: Sequence[np.ndarray], passage_embeddings: np.ndarray) -> np.ndarray:
    """The place of every query among those whose candidates are alike, int64 [Q].

    Queries stand near each other (`neighbour_order`) by the mean embedding of their first
    candidates. That saves more passages than to go by the first candidate alone.

    Args:
      rows: candidates by passage, int [q, C] for each part of the queries, best first; -1 is
        padding.
      passage_embeddings: [N, D].
    """
    means = np.zeros((sum(map(len, rows)), passage_embeddings.shape[1]), np.float32)
    every = (candidates for part in rows for candidates in part[:, :NUM_MEAN_CANDIDATES])
    for number, candidates in enumerate(every):
        found = np.sort(candidates[candidates >= 0])
        if len(found):
            means[number] = passage_embeddings[found].mean(axis=0)
    return neighbour_order(means)


def _shard(queries: QueryShard, settings: str) -> Shard:
    return Shard(
        queries.name,
        shard_key(settings, queries.content()),
        len(queries.queries),
        lambda: {"queries": queries.queries},
    )


def _work(workspace: Workspace) -> dict[str, Any]:
    config, prep = workspace.config, workspace.settings
    parts = query_shards(workspace)
    queries = [query for part in parts for query in part.queries]
    sample = sorted(queries, key=lambda query: draw(config.seed, "sample", query.query_id))
    sample_texts = [query.text for query in sample[:NUM_SAMPLE_QUERIES]]
    selection = Selection(
        prep.candidate_depth,
        prep.range_min,
        prep.range_max,
        prep.sampling_strategy,
        prep.num_candidates,
    )
    passages = load_passages(workspace)
    settings = fingerprint(
        config_fingerprint(workspace, KEYS),
        repr(sorted(_retriever_inputs(workspace).items())),
        passages.key,
        passages.roles.excluded.tobytes(),
        *(sample_texts if _may_use_scann(prep.index, len(passages.texts)) else ()),
    )
    shards = [_shard(part, settings) for part in parts]
    folder = ShardFolder(workspace.prep / "candidates", ".npz")
    paths = folder.make(
        functools.partial(Miner, workspace, sample_texts, selection),
        shards,
        LocalEngine(),
        description="mining",
        unit="queries",
    )
    folder.remove_stale(shards)
    rows = [Candidates.load(path).rows for path in paths]
    with atomic_write(workspace.prep / "order.npy", "wb") as file:
        np.save(file, _order(workspace, rows))
    shown = {
        "shards": {s.name: p.name for s, p in zip(shards, paths, strict=True)},
        "content": fingerprint(*paths),
    }
    write_json(workspace.prep / CANDIDATES_NAME, shown)
    return _report(workspace, parts, paths)


def _may_use_scann(index: str, num_passages: int) -> bool:
    """Whether what is found may depend on the sample of queries, by which ScaNN is tuned."""
    return index == "scann" or (index == "auto" and num_passages >= MIN_SCANN_PASSAGES)


def _order(workspace: Workspace, rows: list[np.ndarray]) -> np.ndarray:
    """The place of every query among its neighbours; as it stands, without a dense retriever."""
    folders = sorted((workspace.prep / "embeddings").glob("*/passages.npy"))
    names = _dense_names(workspace)
    chosen = [path for path in folders if path.parent.name in names[:1]]
    if not chosen:
        return np.arange(sum(map(len, rows)))
    return order_queries(rows, np.load(chosen[0], mmap_mode="r"))


def _dense_names(workspace: Workspace) -> list[str]:
    sections = workspace.settings.retrievers
    return [name for name, section in sections.items() if section["kind"] == "dense"]


def _report(
    workspace: Workspace, parts: Sequence[QueryShard], paths: Sequence[Path]
) -> dict[str, Any]:
    """Counts, and quantiles of every retriever's scores of all candidates."""
    prep = workspace.settings
    names = list(prep.retrievers)
    counts = dict.fromkeys(("queries", "candidates", "own passage not found"), 0)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for part, path in zip(parts, paths, strict=True):
        candidates = Candidates.load(path)
        known = candidates.rows >= 0
        own = np.array([query.row for query in part.queries])[:, None]
        is_own = (candidates.rows == own) & (own >= 0)
        rank = np.where(is_own, candidates.fused_rank, 0).max(axis=1, initial=0)
        made = own[:, 0] >= 0
        counts["queries"] += len(candidates)
        counts["candidates"] += int(known.sum())
        counts["own passage not found"] += int((made & (rank == 0)).sum())
        for number, name in enumerate(names):
            scores[name].append(candidates.scores[:, number][known])
    quantiles = {
        name: np.quantile(np.concatenate(values), QUANTILES).round(4).tolist()
        for name, values in scores.items()
    }
    return {**counts, "quantiles": {"of": list(QUANTILES), **quantiles}}


def _retriever_inputs(workspace: Workspace) -> dict[str, str]:
    config = workspace.config
    sections = retriever_sections(workspace.settings.retrievers, config.model.to_dict())
    prints: Mapping[str, Any] = {
        "dense": lambda section: model_fingerprint(section),
        "run": lambda section: fingerprint(Path(section["path"])),
        "bm25": lambda section: "bm25",
    }
    return {f"retriever {name}": prints[kind](s) for name, (kind, s) in sections.items()}


def _inputs(workspace: Workspace) -> dict[str, str]:
    inputs = passages_inputs(workspace)
    paths = {"queries": needed(workspace.prep / QUERIES_NAME, "generate_queries")}
    return inputs | file_fingerprints(paths) | _retriever_inputs(workspace)


def _outputs(workspace: Workspace) -> list[Path]:
    outputs = [workspace.prep / CANDIDATES_NAME, workspace.prep / "order.npy"]
    if outputs[0].is_file():
        outputs += candidate_paths(workspace).values()
    return outputs


STAGE = Stage(
    name="mine",
    keys=KEYS,
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
