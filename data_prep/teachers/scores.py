"""The scores of teachers, and the files in which the stage score hands them on."""

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
    """The shards of queries that a teacher has scored.

    Attributes:
      shards: the shards; their files are in the teacher's `score_folder`.
      facts: what is reported of the teacher.
    """

    shards: Sequence[Shard]
    facts: dict[str, Any]


def score_folder(workspace: Workspace, teacher: str) -> ShardFolder:
    """The folder of a teacher's scores."""
    return ShardFolder(workspace.prep / "scores" / teacher, ".npz")


def load_scores(path: Path) -> np.ndarray:
    """Read the scores float32 [Q, C] of a shard; NaN where there is none, padding included."""
    with np.load(path) as arrays:
        return arrays["scores"]


def score_paths(workspace: Workspace) -> dict[str, dict[str, Path]]:
    """The files of scores, by teacher and by shard of queries."""
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
