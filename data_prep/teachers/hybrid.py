"""The hybrid of BM25 and a dense retriever as a teacher: its scores come from the candidates."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.corpora.passages import Passages
from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import (
    Made,
    Payload,
    Shard,
    ShardFolder,
    arrays_file,
    content_digest,
    shard_key,
)
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import QueryShard, scored_shards
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.retrieval.fusion import z_scores
from data_prep.teachers.hybrid_weight import choose_weight, hybrid_scores
from ldx.common.errors import UserError
from ldx.common.sections import check_keys

HYBRID_KEYS = ["kind", "weight", "bm25", "dense", "dense_weight"]


def hybrid_columns(
    retrievers: Mapping[str, Mapping[str, Any]], name: str, section: Mapping[str, Any]
) -> tuple[int, int]:
    """Which retrievers the hybrid joins: BM25 and a dense one, by their place.

    Raises:
      UserError: there is none of a kind, or several and none is named.
    """
    check_keys(section, HYBRID_KEYS, f"prep.teachers.{name}")
    columns = []
    for kind in ("bm25", "dense"):
        names = [key for key, value in retrievers.items() if value["kind"] == kind]
        wanted = section.get(kind)
        chosen = [key for key in names if key == wanted or (wanted is None and len(names) == 1)]
        if not chosen:
            raise UserError(
                f"config.prep.teachers.{name}: a hybrid joins a retriever of kind bm25 and one of "
                f"kind dense; of kind {kind} there are {', '.join(names) or 'none'} in "
                f"config.prep.retrievers, and {kind}={wanted!r} names none of them"
            )
        columns.append(list(retrievers).index(chosen[0]))
    return columns[0], columns[1]


class _HybridScorer:
    def __init__(self, columns: tuple[int, int], weight: float):
        self._columns, self._weight = columns, weight

    def __call__(self, payload: Payload) -> Made:
        """The scores of `payload["candidates"]`, a file of candidates."""
        candidates = Candidates.load(payload["candidates"])
        z = z_scores(candidates.scores, candidates.moments)
        lexical, dense = self._columns
        scores = hybrid_scores(z[:, lexical], z[:, dense], self._weight)
        scores = np.where(candidates.rows < 0, np.float32(np.nan), scores)
        return Made(arrays_file(scores=scores))


def score_hybrid(
    workspace: Workspace,
    name: str,
    section: Mapping[str, Any],
    parts: Sequence[QueryShard],
    passages: Passages,
) -> tuple[list[Shard], dict[str, Any]]:
    """Score candidates by the weight that `parts` choose; the shards, and what is reported.

    Raises:
      UserError: its section does not fit the retrievers.
    """
    columns = hybrid_columns(workspace.settings.retrievers, name, section)
    paths = candidate_paths(workspace)
    weight, facts = choose_weight(workspace, section, parts, paths, passages, columns)
    shards = [
        Shard(
            part.name,
            shard_key(repr((columns, weight)), content_digest(paths[part.name])),
            len(part.queries),
            lambda part=part: {"candidates": paths[part.name]},  # type: ignore[misc]
        )
        for part in scored_shards(parts)
    ]
    make = functools.partial(_HybridScorer, columns, weight)
    folder = ShardFolder(workspace.prep / "scores" / name, ".npz")
    folder.make(make, shards, LocalEngine(), description=f"scores of {name}", unit="queries")
    return shards, {"dense weight": weight, **facts}
