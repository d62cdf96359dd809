"""The export command: the best checkpoint of a run as a folder, or a clear refusal."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import ldx.export
from configs import base
from ldx.export import _run_facts
from ldx.models.student import load_student
from ldx.records.manifest import Manifest
from ldx.step.state import init_state
from ldx.training.checkpoint import Checkpoints, Progress, read_progress
from ldx.training.dev_values import DevValues, write_dev_values
from ldx.training.model import declared_template
from ldx.training.verdict import judge
from tests import toy
from tests.helpers import call_command

CHOSEN = " The step was chosen on the same queries."
BETTER = "Better than the base model: dev nDCG@10 0.5000 -> 0.8000"


@pytest.fixture(scope="module")
def workdir(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves, as far as the export reads it; step 3 is the best of 0, 3 and 4."""
    workdir = tmp_path_factory.mktemp("run")
    toy.make_records(workdir / "records")
    config = base.get_config()
    config.model.path = str(tiny_bert)
    config.model.query_max_length, config.model.passage_max_length = 16, 32
    config.model.dtype = "bfloat16"
    (workdir / "config.json").write_text(config.to_json_best_effort())
    results = {"base": {"nDCG@10": 0.25}, "trained": {"nDCG@10": 0.5}}
    (workdir / "results.json").write_text(json.dumps(results))
    checkpoints = Checkpoints(workdir)
    student = load_student(tiny_bert)
    for step in (0, 3, 4):
        params = jax.tree.map(lambda p, step=step: p + 0.01 * step, student.params)
        state = init_state(params, optax.sgd(0.1))
        best = min(step, 3)
        checkpoints.save(state, Progress(step=step, evaluated_step=step, best_step=best))
        keep_dev_values(workdir, step, 0.5 + 0.1 * best)
    return workdir


def keep_dev_values(workdir: Path, step: int, value: float) -> None:
    values = {f"q{i}": value for i in range(8)}
    write_dev_values(workdir, step, DevValues({}, values, "synthetic"))


def export(workdir: Path, output: Path, *more: str) -> subprocess.CompletedProcess:
    """The end of the command, run in this process."""
    return call_command(ldx.export, f"--workdir={workdir}", f"--output={output}", *more)


def test_best_checkpoint_is_exported(workdir: Path, tiny_bert: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "ldx.export", f"--workdir={workdir}", f"--output={output}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert f'SentenceTransformer("{output}")' in result.stdout
    before, after = load_student(tiny_bert), load_student(output)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b - a, 0.03, atol=1e-6),
        before.params,
        after.params,
    )
    assert (after.config.query_max_length, after.config.passage_max_length) == (16, 32)
    card = (output / "README.md").read_text()
    trained = "| trained | 0.5000 |"
    for part in ("for toy", "| Training lists | 48 |", trained, "listwise_kl", BETTER, CHOSEN):
        assert part in card
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert declared_template(str(output)) == declared_template(str(workdir)) == "{text}"


def test_nothing_was_evaluated_after_training(
    workdir: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    early = shutil.copytree(workdir, tmp_path / "early")
    shutil.rmtree(early / "checkpoints")
    state = init_state(load_student(tiny_bert).params, optax.sgd(0.1))
    Checkpoints(early).save(state, Progress(step=0, evaluated_step=0, best_step=0))
    result = export(early, tmp_path / "out", "--force")
    assert result.returncode == 2
    assert "has not been evaluated yet" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_worse_model_is_exported_by_force_alone(workdir: Path, tmp_path: Path) -> None:
    worse = shutil.copytree(workdir, tmp_path / "worse")
    keep_dev_values(worse, 3, 0.1)
    result = export(worse, tmp_path / "out")
    assert result.returncode == 3
    assert "worse than the base model: dev nDCG@10 0.5000 -> 0.1000" in result.stderr
    assert "--force" in result.stderr
    assert not (tmp_path / "out").exists()
    assert export(worse, tmp_path / "out", "--force").returncode == 0
    assert "Worse than the base model" in (tmp_path / "out" / "README.md").read_text()


def test_a_kept_base_model_is_exported_unchanged(
    workdir: Path, tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = shutil.copytree(workdir, tmp_path / "kept")
    shutil.rmtree(kept / "checkpoints")
    keep_dev_values(kept, 3, 0.5)  # as good as the base model, not worse
    state = init_state(load_student(tiny_bert).params, optax.sgd(0.1))
    checkpoints = Checkpoints(kept)
    checkpoints.save(state, Progress(step=0, evaluated_step=0, best_step=0))
    state = init_state(jax.tree.map(lambda p: p + 0.01, state.params), optax.sgd(0.1))
    checkpoints.save(state, Progress(step=3, evaluated_step=3, best_step=0))
    result = call_command(ldx.export, f"--workdir={kept}", f"--output={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert "base model kept: no step had a higher" in result.stdout
    assert "what is exported is the base model, unchanged" in caplog.text
    title = (tmp_path / "out" / "README.md").read_text().partition("\n# ")[2].partition("\n")[0]
    assert "fine-tuned" not in title
    before, after = load_student(tiny_bert), load_student(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


@pytest.mark.parametrize(
    ("select_by", "num_judged", "told"),
    [
        ("ndcg", [0], True),
        ("ndcg", [5], True),
        ("loss", [0], True),
        # People's dev queries have no loss.
        ("loss", [5], False),
        ("loss", [5, 5], False),
        ("loss", [5, 0], True),
    ],
)
def test_a_step_that_the_same_queries_chose(
    workdir: Path, select_by: str, num_judged: list[int], told: bool
) -> None:
    config = json.loads((workdir / "config.json").read_text())
    config["train"]["select_by"] = select_by
    manifest = Manifest.read(workdir / "records")
    manifests = [
        dataclasses.replace(
            manifest, num_lists={"dev": {"toy": 9} | ({"human_dev": n} if n else {})}
        )
        for n in num_judged
    ]
    progress = read_progress(workdir)
    assert progress is not None
    facts = _run_facts(workdir, config, judge(workdir, progress, select_by), manifests)
    assert facts["verdict"].endswith(CHOSEN) == told


def test_output_that_is_something_else(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    result = export(workdir, tmp_path)
    assert result.returncode == 2
    assert "is no export of ldx" in result.stderr
    assert "Traceback" not in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_workdir_without_a_run(tmp_path: Path) -> None:
    result = export(tmp_path, tmp_path / "out")
    assert result.returncode == 2
    assert "config.json: no such file; --workdir is the folder of a run" in result.stderr
