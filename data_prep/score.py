"""Stage 4: every teacher's raw score of every candidate, but those of people's dev queries.

Leaves WORKDIR/prep/scores/TEACHER/*.npz and scores.json.
"""

import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpora.passages import Passages, load_passages, passages_inputs
from data_prep.engines.shards import (
    Made,
    Payload,
    Shard,
    ShardFolder,
    arrays_file,
    check_rejects,
    content_digest,
    shard_key,
)
from data_prep.pipeline.draws import draw
from data_prep.pipeline.settings import HYBRID
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries.query import Query, QueryShard, query_shards, scored_shards
from data_prep.retrieval.candidates import CANDIDATES_NAME, Candidates, candidate_paths
from data_prep.teachers import Pairs, make_teacher
from data_prep.teachers.hybrid import score_hybrid
from data_prep.teachers.parity import compare_scores, transformers_form
from data_prep.teachers.scores import SCORES_NAME, load_scores, score_paths
from ldx.common.files import fingerprint, read_json, write_json
from ldx.records.sets import PassageSet

NUM_PARITY_PAIRS = 50


class Scorer:
    """Scores the candidates of one shard of queries after another; holds the teacher."""

    def __init__(self, name: str, settings: Mapping[str, Any]):
        self._teacher = make_teacher(name, settings)
        # A file may well lack what the retrievers found; a model has a score for everything.
        self._may_lack = settings["kind"] == "run_file"

    def __call__(self, payload: Payload) -> Made:
        """The scores float32 [Q, C] of `payload` (`pairs_payload`), NaN where there is none."""
        places = payload["places"]
        at = np.argwhere(places >= 0)
        pairs = pairs_of(payload, at.tolist())
        scores = np.full(places.shape, np.nan, np.float32)
        scores[at[:, 0], at[:, 1]] = self._teacher.score(pairs)
        rejects = [
            {"id": f"{problem.query_id} {problem.doc_id}", "reason": problem.reason}
            for problem in getattr(self._teacher, "problems", ())
        ]
        return Made(arrays_file(scores=scores), () if self._may_lack else rejects, len(at))


def pairs_of(payload: Payload, at: Sequence[Sequence[int]]) -> Pairs:
    """Some pairs of `pairs_payload`, by query and column."""
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
    """What a scorer needs: texts and ids of queries and of their distinct candidates."""
    distinct, places = np.unique(rows, return_inverse=True)
    places = places.reshape(rows.shape) - int((distinct < 0).any())
    known = distinct[distinct >= 0].tolist()
    return {
        "query_ids": [query.query_id for query in queries],
        "queries": [query.text for query in queries],
        "doc_ids": [passage_set[row].doc_id for row in known],
        "passages": [passages.texts[row] for row in known],
        "places": places,
    }


def _score_model(
    workspace: Workspace,
    name: str,
    section: Mapping[str, Any],
    parts: Sequence[QueryShard],
    passages: Passages,
) -> tuple[list[Shard], dict[str, Any]]:
    every = candidate_paths(workspace)
    paths = {part.name: every[part.name] for part in parts}
    passage_set = PassageSet(workspace.corpus_records)
    settings = _without_weight(section)
    teacher_key = make_teacher(name, settings).fingerprint

    def payload(part: QueryShard) -> Payload:
        rows = Candidates.load(paths[part.name]).rows
        return pairs_payload(part.queries, rows, passages, passage_set)

    shards = [
        Shard(
            part.name,
            shard_key(teacher_key, passages.key, part.content(), content_digest(paths[part.name])),
            len(part.queries),
            functools.partial(payload, part),
        )
        for part in parts
    ]
    folder = ShardFolder(workspace.prep / "scores" / name, ".npz")
    parity = folder.folder / f"parity-{teacher_key}.json"
    facts = _check_parity(parity, name, settings, payload, parts, workspace.config.seed)
    make = functools.partial(Scorer, name, settings)
    engine = workspace.engine
    folder.make(make, shards, engine, description=f"scores of {name}", unit="queries")
    num_pairs = sum(int((Candidates.load(path).rows >= 0).sum()) for path in paths.values())
    num_scores = sum(int(np.isfinite(load_scores(p)).sum()) for p in folder.find(shards).values())
    check_rejects(
        f"score ({name})", folder.rejects(shards), num_pairs, workspace.settings.max_rejects
    )
    return shards, {"not scored": num_pairs - num_scores, **facts}


def _without_weight(section: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the teacher; its weight among others does not."""
    return {key: value for key, value in section.items() if key != "weight"}


def _check_parity(
    path: Path,
    name: str,
    settings: Mapping[str, Any],
    payload: Callable[[QueryShard], Payload],
    parts: Sequence[QueryShard],
    seed: int,
) -> dict[str, Any]:
    """Before a fast engine's long job: 50 pairs, scored by transformers as well, one by one.

    What was found is kept in `path`.
    """
    slow = transformers_form(name, settings)
    if slow is None:
        return {}
    if not path.is_file():
        part = min(parts, key=lambda part: draw(seed, "parity", part.name))
        some = payload(part)
        at = np.argwhere(some["places"] >= 0).tolist()
        at.sort(key=lambda pair: draw(seed, "parity", str(pair)))
        pairs = pairs_of(some, at[:NUM_PARITY_PAIRS])
        expected = slow.score(pairs)
        del slow  # a device may have no room for both
        gc.collect()
        fast: Any = make_teacher(name, settings)
        found = fast.score(pairs)
        problems = getattr(fast, "problems", ())
        getattr(fast, "close", lambda: None)()
        write_json(path, vars(compare_scores(expected, found, pairs, problems=problems)))
    return {"parity": read_json(path)}


def _work(workspace: Workspace) -> dict[str, Any]:
    parts, passages = query_shards(workspace), load_passages(workspace)
    scored = scored_shards(parts)
    index: dict[str, dict[str, str]] = {}
    facts: dict[str, dict[str, Any]] = {}
    paths: list[Path] = []
    for name, section in workspace.settings.teachers.items():
        if section["kind"] == HYBRID:
            shards, facts[name] = score_hybrid(workspace, name, section, parts, passages)
        else:
            shards, facts[name] = _score_model(workspace, name, section, scored, passages)
        found = ShardFolder(workspace.prep / "scores" / name, ".npz").find(shards)
        index[name] = {shard: path.name for shard, path in found.items()}
        paths += found.values()
    value = {"shards": index, "facts": facts, "content": fingerprint(*paths)}
    write_json(workspace.prep / SCORES_NAME, value)
    candidates = candidate_paths(workspace)
    rows = (Candidates.load(candidates[part.name]).rows for part in scored)
    return {"pairs": sum(int((each >= 0).sum()) for each in rows), **facts}


def _inputs(workspace: Workspace) -> dict[str, str]:
    paths = {"candidates": needed(workspace.prep / CANDIDATES_NAME, "mine")}
    teachers = {
        f"teacher {name}": make_teacher(name, _without_weight(section)).fingerprint
        for name, section in workspace.settings.teachers.items()
        if section["kind"] != HYBRID
    }
    return passages_inputs(workspace) | file_fingerprints(paths) | teachers


def _outputs(workspace: Workspace) -> list[Path]:
    outputs = [workspace.prep / SCORES_NAME]
    if outputs[0].is_file():
        outputs += [path for files in score_paths(workspace).values() for path in files.values()]
    return outputs


STAGE = Stage(
    name="score",
    keys=("seed", "prep.teachers", "prep.dev_fraction", "prep.max_rejects"),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
