"""The export command: the best checkpoint of a run as a folder, or a clear refusal."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import ldx.evaluate
import ldx.export
import ldx.search
from configs import base
from ldx.export import _run_facts
from ldx.models.st_folder import read_towers
from ldx.models.student import load_student
from ldx.models.towers import with_passage_map
from ldx.records.manifest import Manifest
from ldx.step.state import init_state
from ldx.training.checkpoint import Checkpoints, Progress, read_progress
from ldx.training.dev_values import DevValues, write_dev_values
from ldx.training.model import declared_template, load_model
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


@pytest.mark.parametrize("others", [("the ", "a "), ("find ", None)])
def test_prompts_of_sources_are_exported(
    workdir: Path,
    tmp_path: Path,
    others: tuple[str, str | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What all sources share is the model's; what differs can be asked for by name."""
    run = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["model"] |= {"passage_prompt": "a "}
    records = str(run / "records")
    prompts = [("the ", "a "), others]
    config["data"]["sources"] = {
        name: {"records": records, "query_prompt": query, "passage_prompt": passage}
        for name, (query, passage) in zip(("one", "two"), prompts, strict=True)
    }
    (run / "config.json").write_text(json.dumps(config))
    result = export(run, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    declared = json.loads((tmp_path / "out/config_sentence_transformers.json").read_text())
    exported, of_run = load_model(tmp_path / "out"), load_model(run, dtype="float32")
    np.testing.assert_allclose(
        exported.encode_queries(["wing"]), of_run.encode_queries(["wing"]), atol=1e-5
    )
    if others == ("the ", "a "):
        assert declared["prompts"] == {"query": "the ", "passage": "a ", "document": "a "}
        assert exported.student.config.query_prompt == "the "
        return
    assert declared["prompts"]["two_query"] == "find "
    assert declared["prompts"]["one_query"] == "the "
    assert declared["prompts"]["two_passage"] == declared["prompts"]["passage"] == "a "
    assert declared["prompts"]["query"] == ""
    assert "the sources have different prompts" in caplog.text
    assert "one_query, one_passage, two_query" in (tmp_path / "out/README.md").read_text()


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


@pytest.fixture(scope="module")
def query_workdir(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a run that trained the tower of queries, and the collection it is about."""
    copy = shutil.copytree(workdir, tmp_path_factory.mktemp("query") / "run")
    toy.make_collection(copy / "dataset")
    set_towers(copy)
    return copy


def set_towers(workdir: Path, passage_map: str | None = None) -> None:
    config = json.loads((workdir / "config.json").read_text())
    config["train"] |= {"towers": "query", "passage_map": passage_map}
    config["model"] |= {"query_prompt": "the ", "passage_prompt": "a "}
    (workdir / "config.json").write_text(json.dumps(config))


def code_of(card: str) -> str:
    """The Python example of a card."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def test_two_towers_are_exported_and_read_back(
    query_workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    result = export(query_workdir, output)
    assert result.returncode == 0, result.stderr
    assert "encode_document for passages" in result.stdout
    assert "An index that the base model made stays as it is" in result.stdout
    exported, run = load_model(output), load_model(query_workdir, dtype="float32")
    base = load_student(**json.loads((query_workdir / "config.json").read_text())["model"])
    assert exported.student.config == run.student.config == base.config
    texts = ["solver matrix", "protein cell " * 30]
    np.testing.assert_array_equal(exported.encode_queries(texts), run.encode_queries(texts))
    np.testing.assert_array_equal(exported.encode_passages(texts), run.encode_passages(texts))
    jax.tree.map(np.testing.assert_array_equal, exported.towers.passage, base.params)
    declared = json.loads((output / "ldx_export.json").read_text())
    assert declared["passage_fingerprint"] == exported.passage_fingerprint
    assert exported.passage_fingerprint == run.passage_fingerprint
    assert declared["towers"] == {"query": "query_encoder", "passage": "passage_encoder"}

    card = (output / "README.md").read_text()
    for part in (
        f"`{run.passage_fingerprint}`",
        "embedded by st with the prompt `a `, cut at 32 tokens, as `{text}`",
        "An index that st made like this stays as it is",
        f"vllm serve {output.name}/query_encoder",
    ):
        assert part in card
    names: dict[str, Any] = {}
    monkeypatch.chdir(output.parent)  # a card names its folder, not where that is
    exec(code_of(card), names)
    np.testing.assert_allclose(names["queries"], run.encode_queries(["a query"]), atol=1e-5)
    passages = run.encode_passages(["a passage", "another"])
    np.testing.assert_allclose(names["passages"], passages, atol=1e-5)

    for tower, message in (("query_encoder", "the tower of queries alone"), ("", None)):
        options = (f"--corpus={query_workdir / 'dataset'}", f"--cache={tmp_path / 'c'}", "solver")
        found = call_command(ldx.search, f"--model={output / tower}", *options)
        assert found.returncode == (2 if message else 0)
        assert (message or "query: solver") in found.stderr + found.stdout
    metrics = [
        ldx.evaluate(query_workdir / "dataset", model=model).metrics["nDCG@10"]
        for model in (exported, run)
    ]
    assert metrics[0] == metrics[1]


def test_a_passage_map_is_exported(query_workdir: Path, tiny_bert: Path, tmp_path: Path) -> None:
    mapped = shutil.copytree(query_workdir, tmp_path / "mapped")
    shutil.rmtree(mapped / "checkpoints")
    set_towers(mapped, "linear")
    params = with_passage_map(jax.tree.map(lambda p: p + 0.01, load_student(tiny_bert).params))
    params["passage_map"]["kernel"] += 0.1 * np.eye(32, dtype=np.float32)[::-1]
    progress = Progress(step=3, evaluated_step=3, best_step=3)
    Checkpoints(mapped).save(init_state(params, optax.sgd(0.1)), progress)
    output = tmp_path / "out"
    result = export(mapped, output)
    assert result.returncode == 0, result.stderr
    assert "made is multiplied by its passage map" in result.stdout
    exported, run = load_model(output), load_model(mapped, dtype="float32")
    np.testing.assert_array_equal(exported.encode_passages(["wing"]), run.encode_passages(["wing"]))
    assert exported.passage_fingerprint == run.passage_fingerprint
    assert "multiply them by the transposed" in (output / "README.md").read_text()


def test_a_kept_base_model_has_one_tower(
    query_workdir: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    kept = shutil.copytree(query_workdir, tmp_path / "kept")
    shutil.rmtree(kept / "checkpoints")
    keep_dev_values(kept, 3, 0.5)
    state = init_state(load_student(tiny_bert).params, optax.sgd(0.1))
    checkpoints = Checkpoints(kept)
    checkpoints.save(state, Progress(step=0, evaluated_step=0, best_step=0))
    checkpoints.save(state, Progress(step=3, evaluated_step=3, best_step=0))
    assert export(kept, tmp_path / "out").returncode == 0
    assert read_towers(tmp_path / "out") is None
    params = load_student(tmp_path / "out").params
    jax.tree.map(np.testing.assert_array_equal, params, load_student(tiny_bert).params)
