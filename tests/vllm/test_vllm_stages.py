"""Stages of data_prep as commands, in an environment that has vLLM."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_prep.corpora.passages import load_passages
from data_prep.pipeline.workspace import open_workspace
from data_prep.queries.query import query_shards
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.teachers.cross_encoder import CrossEncoder
from data_prep.teachers.scores import load_scores, score_paths
from data_prep.teachers.scoring import pairs_of, pairs_payload
from ldx.common.files import read_json
from ldx.records.sets import PassageSet
from tests.data_prep.teacher_models import make_bert
from tests.data_prep.toy import make_collection, make_config


@pytest.fixture
def workspace(tmp_path):
    config = make_config(make_collection(tmp_path / "toy", num_passages=24), Path("no student"))
    config.prep.retrievers = ConfigDict({"bm25": {"kind": "bm25"}})
    model = str(make_bert(tmp_path / "encoder", 1))
    teacher = {"kind": "vllm", "model": model, "max_length": 48}
    teacher["engine_args"] = {"enforce_eager": True}
    config.prep.teachers = ConfigDict({"encoder": teacher})
    return open_workspace(config, tmp_path / "work")


def run(workspace, *stages):
    """Run stages, each in a process of its own: vLLM does not start beside what mining loads."""
    path = workspace.workdir.with_name("config.py")
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({workspace.config.to_json()!r}))\n"
    )
    for stage in stages:
        command = [sys.executable, "-m", f"data_prep.{stage}", f"--config={path}"]
        command.append(f"--workdir={workspace.workdir}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]


def test_the_score_stage_equals_transformers_and_says_so(workspace):
    run(workspace, "corpus", "generate_queries", "mine", "score")
    slow = CrossEncoder(
        workspace.settings.teachers["encoder"]["model"], max_length=48, device="cpu"
    )
    passages, passage_set = load_passages(workspace), PassageSet(workspace.records)
    for part in query_shards(workspace):
        rows = Candidates.load(candidate_paths(workspace)[part.name]).rows
        payload = pairs_payload(part.queries, rows, passages, passage_set)
        at = np.argwhere(payload["places"] >= 0)
        expected = np.full(rows.shape, np.nan, np.float32)
        expected[at[:, 0], at[:, 1]] = slow.score(pairs_of(payload, at.tolist()))
        found = load_scores(score_paths(workspace)["encoder"][part.name])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    parity = read_json(workspace.prep / "score.json")["counts"]["encoder"]["parity"]
    assert parity["num_pairs"] == 50
    assert parity["rank_correlation"] > 0.99
