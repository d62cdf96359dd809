"""Scores of teachers, as the stage score hands them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.engines.shards import Shard, ShardFolder
from data_prep.pipeline.workspace import Workspace, needed
from ldx.common.files import read_json

SCORES_NAME = "scores.json"


@dataclass(frozen=True)
class ScoredShards:
    """What a teacher has scored.

    Attributes:
      shards: of queries; their files are in the teacher's `score_folder`.
      facts: what is reported of the teacher.
    """

    shards: Sequence[Shard]
    facts: dict[str, Any]


def score_folder(workspace: Workspace, teacher: str) -> ShardFolder:
    """Where the scores of a teacher are."""
    return ShardFolder(workspace.prep / "scores" / teacher, ".npz")


def load_scores(path: Path) -> np.ndarray:
    """Scores float32 [Q, C] of a shard; NaN where there is none, padding included."""
    with np.load(path) as arrays:
        return arrays["scores"]


def score_paths(workspace: Workspace) -> dict[str, dict[str, Path]]:
    """The scores of each teacher, by teacher and by shard of queries."""
    index = read_json(needed(workspace.prep / SCORES_NAME, "score"))["shards"]
    root = workspace.prep / "scores"
    return {
        teacher: {name: root / teacher / file for name, file in files.items()}
        for teacher, files in index.items()
    }


def dense_weights(workspace: Workspace) -> dict[str, float]:
    """The dense retriever's weight in each hybrid, by the teacher's name."""
    facts = read_json(needed(workspace.prep / SCORES_NAME, "score"))["facts"]
    return {name: each["dense weight"] for name, each in facts.items() if "dense weight" in each}
