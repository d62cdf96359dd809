"""The hybrid of BM25 and a dense retriever as a teacher, scored by what the candidates hold."""

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
    arrays_file,
    content_digest,
    shard_key,
)
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import QueryShard, scored_shards
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.retrieval.fusion import z_scores
from data_prep.retrieval.retrievers import RetrieverKind
from data_prep.teachers.hybrid_weight import HybridColumns, choose_weight, hybrid_scores
from data_prep.teachers.scores import ScoredShards, score_folder
from ldx.common.errors import UserError
from ldx.common.sections import check_keys

HYBRID_KEYS = ["kind", "weight", "bm25", "dense", "dense_weight"]


def hybrid_columns(
    retrievers: Mapping[str, Mapping[str, Any]], name: str, section: Mapping[str, Any]
) -> HybridColumns:
    """The places of the retrievers that a hybrid joins: BM25 and a dense one.

    Args:
      retrievers: the sections of `config.prep.retrievers`.
      name: NAME of the section `config.prep.teachers.NAME`.
      section: that section.

    Raises:
      UserError: there is no retriever of a kind, or there are several and none is named.
    """
    check_keys(section, HYBRID_KEYS, f"prep.teachers.{name}")

    def place(kind: RetrieverKind) -> int:
        names = [key for key, value in retrievers.items() if value["kind"] == kind]
        choice = section.get(kind.value)
        fitting = [key for key in names if key == choice or (choice is None and len(names) == 1)]
        if not fitting:
            raise UserError(
                f"config.prep.teachers.{name}: a hybrid joins a retriever of kind bm25 and one of "
                f"kind dense; of kind {kind} there are {', '.join(names) or 'none'} in "
                f"config.prep.retrievers, and {kind}={choice!r} names none of them"
            )
        return list(retrievers).index(fitting[0])

    return HybridColumns(place(RetrieverKind.BM25), place(RetrieverKind.DENSE))


class _HybridScorer:
    def __init__(self, columns: HybridColumns, weight: float):
        self._columns, self._weight = columns, weight

    def __call__(self, payload: Payload) -> Made:
        """The scores of `payload["candidates"]`, a file of candidates."""
        candidates = Candidates.load(payload["candidates"])
        z = z_scores(candidates.scores, candidates.moments)
        columns = self._columns
        scores = hybrid_scores(z[:, columns.bm25], z[:, columns.dense], self._weight)
        scores = np.where(candidates.rows < 0, np.float32(np.nan), scores)
        return Made(arrays_file(scores=scores))


def score_hybrid(
    workspace: Workspace,
    name: str,
    section: Mapping[str, Any],
    parts: Sequence[QueryShard],
    passages: Passages,
) -> ScoredShards:
    """Score candidates by a hybrid, with the weight that its section sets or `parts` choose.

    Raises:
      UserError: the hybrid's section does not fit the retrievers.
    """
    columns = hybrid_columns(workspace.settings.retrievers, name, section)
    paths = candidate_paths(workspace)
    chosen = choose_weight(workspace, section, parts, paths, passages, columns)
    decides = repr((tuple(columns), chosen.weight))
    shards = [
        Shard(
            part.name,
            shard_key(decides, content_digest(paths[part.name])),
            len(part.queries),
            lambda part=part: {"candidates": paths[part.name]},  # type: ignore[misc]
        )
        for part in scored_shards(parts)
    ]
    make = functools.partial(_HybridScorer, columns, chosen.weight)
    folder, description = score_folder(workspace, name), f"scores of {name}"
    folder.make(make, shards, LocalEngine(), description=description, unit="queries")
    return ScoredShards(shards, {"dense weight": chosen.weight, **chosen.facts})
