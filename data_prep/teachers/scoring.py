"""Scoring of candidates by a model or a file of scores, in shards of queries."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.corpora.passages import Passages
from data_prep.engines.shards import (
    Made,
    Payload,
    Shard,
    arrays_file,
    check_rejects,
    content_digest,
    shard_key,
)
from data_prep.pipeline.draws import draw
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query, QueryShard
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.teachers import Pairs, make_teacher
from data_prep.teachers.parity import kept_parity
from data_prep.teachers.scores import ScoredShards, load_scores, score_folder
from ldx.records.sets import PassageSet

NUM_PARITY_PAIRS = 50


class Scorer:
    """A worker with a teacher that scores the candidates of one shard of queries after another."""

    def __init__(self, name: str, settings: Mapping[str, Any]):
        self._teacher = make_teacher(name, settings)
        # A file of scores may lack candidates; a model is expected to score every pair.
        self._may_lack = settings["kind"] == "run_file"

    def __call__(self, payload: Payload) -> Made:
        """Scores float32 [Q, C] of what `pairs_payload` made, NaN where there is none."""
        places = payload["places"]
        at = np.argwhere(places >= 0)
        scores = np.full(places.shape, np.nan, np.float32)
        if not len(at):
            return Made(arrays_file(scores=scores))
        pairs = pairs_of(payload, at.tolist())
        scores[at[:, 0], at[:, 1]] = self._teacher.score(pairs)
        rejects = [
            {"id": f"{problem.query_id} {problem.doc_id}", "reason": problem.reason}
            for problem in getattr(self._teacher, "problems", ())
        ]
        return Made(arrays_file(scores=scores), () if self._may_lack else rejects, len(at))


def pairs_of(payload: Payload, at: Sequence[Sequence[int]]) -> Pairs:
    """The pairs at some places, each a query and a column, of what `pairs_payload` made."""
    places = payload["places"]
    return Pairs(
        [payload["query_ids"][q] for q, _ in at],
        [payload["queries"][q] for q, _ in at],
        [payload["doc_ids"][places[q, c]] for q, c in at],
        [payload["passages"][places[q, c]] for q, c in at],
    )


def pairs_payload(
    queries: Sequence[Query], rows: np.ndarray, passages: Passages, passage_set: PassageSet
) -> Payload:
    """The payload of a scorer: texts and ids of queries and of their distinct candidates."""
    distinct, places = np.unique(rows, return_inverse=True)
    places = places.reshape(rows.shape) - int((distinct < 0).any())
    candidates = distinct[distinct >= 0].tolist()
    return {
        "query_ids": [query.query_id for query in queries],
        "queries": [query.text for query in queries],
        "doc_ids": [passage_set[row].doc_id for row in candidates],
        "passages": [passages.texts[row] for row in candidates],
        "places": places,
    }


def may_have_lists(
    rank_limit: int | None, queries: Sequence[Query], candidates: Candidates
) -> np.ndarray:
    """Whether `config.prep.rank_limit` lets each query through, bool [Q]: the others need no score.

    Queries that people wrote have no passage of their own, and pass.
    """
    own_rows = np.array([query.row for query in queries])
    if not rank_limit:
        return np.ones(len(queries), bool)
    rank = candidates.rank_of(own_rows)
    return (own_rows < 0) | ((rank > 0) & (rank <= rank_limit))


def without_weight(section: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher's section without its weight among others, which changes no score."""
    return {key: value for key, value in section.items() if key != "weight"}


def score_model(
    workspace: Workspace,
    name: str,
    section: Mapping[str, Any],
    parts: Sequence[QueryShard],
    passages: Passages,
) -> ScoredShards:
    """Score the candidates of queries by a teacher that reads their texts or their ids.

    Queries that `config.prep.rank_limit` drops are not scored, unless a shard with all queries is
    there from before.

    Args:
      workspace: a workspace with candidates.
      name: NAME of the section `config.prep.teachers.NAME`.
      section: that section.
      parts: the shards of queries.
      passages: the texts of the candidates.

    Raises:
      UserError: more pairs than config.prep.max_rejects allows could not be scored, or a fast
        engine ranks unlike transformers.
    """
    paths = candidate_paths(workspace)
    passage_set = PassageSet(workspace.corpus_records)
    settings = without_weight(section)
    teacher_key = make_teacher(name, settings).fingerprint
    folder = score_folder(workspace, name)

    def rows_of(part: QueryShard) -> np.ndarray:
        """The rows [Q, C] of the candidates to be scored; -1 where there is none."""
        candidates = Candidates.load(paths[part.name])
        is_scored = may_have_lists(workspace.settings.rank_limit, part.queries, candidates)
        return np.where(is_scored[:, None], candidates.rows, -1)

    def payload(part: QueryShard) -> Payload:
        return pairs_payload(part.queries, rows_of(part), passages, passage_set)

    def sample() -> Pairs:
        return _sample_pairs(workspace.config.seed, parts, payload)

    def shard(part: QueryShard) -> Shard:
        content = part.content(), content_digest(paths[part.name])
        make = functools.partial(payload, part)
        whole = Shard(
            part.name, shard_key(teacher_key, passages.key, *content), len(part.queries), make
        )
        is_scored = (rows_of(part) >= 0).any(axis=1)
        if is_scored.all() or folder.find([whole]):
            return whole
        key = shard_key(teacher_key, passages.key, *content, is_scored.tobytes())
        return Shard(part.name, key, int(is_scored.sum()), make)

    shards = [shard(part) for part in parts]
    parity = kept_parity(folder.folder / f"parity-{teacher_key}.json", name, settings, sample)
    make = functools.partial(Scorer, name, settings)
    description = f"scores of {name}"
    made = folder.make(make, shards, workspace.engine, description=description, unit="queries")
    is_pair = [rows_of(part) >= 0 for part in parts]
    num_pairs = sum(int(of_part.sum()) for of_part in is_pair)
    num_scores = sum(
        int(np.isfinite(load_scores(path)[of_part]).sum())
        for path, of_part in zip(made, is_pair, strict=True)
    )
    check_rejects(
        f"score ({name})",
        folder.rejects(shards),
        num_pairs,
        workspace.settings.max_rejects,
        advice="Then delete each of these files and the shard beside it whose name begins alike, "
        "and run the same command again, which makes these shards anew.",
    )
    facts = {"pairs": num_pairs, "not scored": num_pairs - num_scores}
    return ScoredShards(shards, facts if parity is None else facts | {"parity": parity})


def _sample_pairs(
    seed: int, parts: Sequence[QueryShard], payload: Callable[[QueryShard], Payload]
) -> Pairs:
    """Some pairs of one shard of queries, on which parity is measured."""
    pairs: Payload = {}
    at: list[list[int]] = []
    for part in sorted(parts, key=lambda part: draw(seed, "parity", part.name)):
        pairs = payload(part)
        at = np.argwhere(pairs["places"] >= 0).tolist()
        if at:
            break
    at.sort(key=lambda pair: draw(seed, "parity", str(pair)))
    return pairs_of(pairs, at[:NUM_PARITY_PAIRS])
