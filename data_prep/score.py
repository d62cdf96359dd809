"""Stage 4: every teacher's raw scores of all candidates, except those of people's dev queries.

Leaves WORKDIR/prep/scores/TEACHER/*.npz and scores.json.
"""

from pathlib import Path
from typing import Any

from data_prep.corpora.passages import load_passages, passages_inputs
from data_prep.pipeline.settings import HYBRID
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries.query import query_shards, scored_shards
from data_prep.retrieval.candidates import CANDIDATES_NAME, Candidates, candidate_paths
from data_prep.teachers import make_teacher
from data_prep.teachers.hybrid import score_hybrid
from data_prep.teachers.scores import SCORES_NAME, score_folder, score_paths
from data_prep.teachers.scoring import score_model, without_weight
from ldx.common.files import fingerprint, write_json


def _work(workspace: Workspace) -> dict[str, Any]:
    parts, passages = query_shards(workspace), load_passages(workspace)
    scored_parts = scored_shards(parts)
    index: dict[str, dict[str, str]] = {}
    facts: dict[str, dict[str, Any]] = {}
    paths: list[Path] = []
    for name, section in workspace.settings.teachers.items():
        if section["kind"] == HYBRID:
            scored = score_hybrid(workspace, name, section, parts, passages)
        else:
            scored = score_model(workspace, name, section, scored_parts, passages)
        files = score_folder(workspace, name).find(scored.shards)
        index[name] = {shard: path.name for shard, path in files.items()}
        facts[name] = scored.facts
        paths += files.values()
    value = {"shards": index, "facts": facts, "content": fingerprint(*paths)}
    write_json(workspace.prep / SCORES_NAME, value)
    candidates = candidate_paths(workspace)
    rows = (Candidates.load(candidates[part.name]).rows for part in scored_parts)
    return {"pairs": sum(int((of_part >= 0).sum()) for of_part in rows), **facts}


def _inputs(workspace: Workspace) -> dict[str, str]:
    paths = {"candidates": needed(workspace.prep / CANDIDATES_NAME, "mine")}
    teachers = {
        f"teacher {name}": make_teacher(name, without_weight(section)).fingerprint
        for name, section in workspace.settings.teachers.items()
        if section["kind"] != HYBRID
    }
    inputs = passages_inputs(workspace) | file_fingerprints(paths) | teachers
    if teachers:  # a hybrid scores all queries, whatever the limit
        inputs["rank_limit"] = str(workspace.settings.rank_limit)
    return inputs


def _outputs(workspace: Workspace) -> list[Path]:
    index = workspace.prep / SCORES_NAME
    if not index.is_file():
        return [index]
    return [index, *(p for files in score_paths(workspace).values() for p in files.values())]


STAGE = Stage(
    name="score",
    keys=("seed", "prep.teachers", "prep.dev_fraction", "prep.max_rejects"),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main, on_engine=True)
