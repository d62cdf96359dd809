"""Runs of the query tower alone: passages are embedded once, and stay as they are."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import ldx.evaluate
import ldx.export
import ldx.train
from ldx.common.configs import load_config
from ldx.common.errors import UserError
from ldx.common.interrupt import Interrupted
from ldx.models.student import load_student
from ldx.retrieval.encoder import Encoder
from ldx.training import loop
from ldx.training.checkpoint import best_params, read_progress
from ldx.training.model import load_model
from ldx.training.variants import CHECKPOINTS, average, read_tried
from tests import toy
from tests.test_train import last_state, metrics, start_and_kill, train, train_here


@pytest.fixture(scope="module", autouse=True)
def as_many_devices_as_here():
    """Commands have the devices of this process, so that both share what was compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))
        yield


@pytest.fixture(scope="module")
def config(tiny_bert, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return toy.make_run(
        folder, tiny_bert, num_steps=8, eval_every=4, towers="query", select_by="loss"
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished")
    result = train(config, workdir)
    assert result.returncode == 0, result.stderr
    (workdir / "stderr").write_text(result.stderr)
    return workdir


def test_passages_are_embedded_once_by_the_base_model(finished, tiny_bert):
    (path,) = (finished / "passages").glob("*.npy")
    stored = np.load(path)
    config = json.loads((finished / "config.json").read_text())
    student = load_student(tiny_bert, query_max_length=16, passage_max_length=32)
    texts = toy.make_texts(np.random.default_rng(0), 40, 12)
    expected = Encoder(student).encode(student.params, texts, kind="passage")
    np.testing.assert_allclose(stored, expected, atol=1e-6)
    assert config["train"]["towers"] == "query"


def test_the_loss_falls_and_the_steps_are_of_queries_alone(finished):
    lines = metrics(finished)
    dev = {line["step"]: line["dev/total"] for line in lines if "dev/total" in line}
    assert dev[8] < dev[0]
    of_steps = [line for line in lines if "total" in line]
    assert all(line["num_tokens"] <= 8 * 16 for line in of_steps), of_steps[0]


def test_dev_and_report_search_the_stored_passages(finished, tiny_bert):
    """nDCG@10 of the trained model is that of its queries among passages of the base model."""
    student = load_student(tiny_bert, query_max_length=16, passage_max_length=32)
    params, progress = best_params(finished, student.params)
    assert progress.best_step > 0
    texts = toy.make_texts(np.random.default_rng(0), 40, 12)
    encoder = Encoder(student)
    passages = encoder.encode(student.params, texts, kind="passage")
    queries = [" ".join(text.split()[:3]) for text in texts[:10]]
    scores = encoder.encode(params, queries, kind="query") @ passages.T
    rank = (scores > scores[np.arange(10), np.arange(10)][:, None]).sum(axis=1)
    expected = np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean()
    results = json.loads((finished / "results.json").read_text())
    assert results["trained"]["nDCG@10"] == pytest.approx(expected, abs=1e-4)
    dev = np.load(finished / "report" / "dev_scores.npz")
    assert not np.array_equal(dev["scores_base"], dev["scores_trained"])


def test_a_killed_run_ends_as_if_it_had_not_been(config, finished, tmp_path):
    workdir = tmp_path / "killed"
    start_and_kill(config, workdir, signal.SIGKILL, 3)
    result = train(config, workdir)
    assert result.returncode == 0, result.stderr
    for name in ("metrics.jsonl", "progress.json", "results.json", "report.txt"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    for ours, undisturbed in zip(last_state(workdir), last_state(finished), strict=True):
        np.testing.assert_array_equal(ours, undisturbed)


def test_a_stop_while_alphas_are_tried_costs_nothing(config, tmp_path, monkeypatch):
    """The last step is saved before, and the same command chooses alpha as if nothing had been."""
    workdir, evaluate, calls = tmp_path / "run", loop.evaluate_sources, []

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 4 + 2:  # after the evaluations of steps 0, 4, 8, at the third alpha
            raise Interrupted(signal.SIGTERM)
        return evaluate(*args)

    monkeypatch.setattr(loop, "evaluate_sources", interrupt)
    with pytest.raises(Interrupted):
        ldx.train.train(load_config(config), workdir)
    progress, lines = read_progress(workdir), (workdir / "metrics.jsonl").read_bytes()
    assert (progress.ended, progress.finished, progress.kept) == (True, False, "")
    monkeypatch.undo()
    ldx.train.train(load_config(config), workdir)
    tried = read_tried(workdir)
    assert list(tried.alphas) == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert read_progress(workdir) == dataclasses.replace(progress, variant=tried.kept)
    assert (workdir / "metrics.jsonl").read_bytes() == lines
    assert (workdir / "report.txt").is_file()


@pytest.fixture(scope="module")
def other_seed(config, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("other")
    whole = load_config(config)
    whole.seed = 1
    ldx.train.train(whole, workdir)
    return workdir


@pytest.mark.parametrize(
    ("variant", "told", "card"),
    [
        ("1.5", "alpha 1.5", "base + 1.5 (trained - base)"),
        ("checkpoints", "the mean of the last checkpoints", "the mean of the last checkpoints"),
        ("runs", "the mean of this and other runs", "the mean of this and other runs"),
    ],
)
def test_what_is_kept_is_what_everything_speaks_of(
    config, finished, other_seed, tmp_path, monkeypatch, variant, told, card
):
    """Where it wins: the verdict, the report's text, the model and the export are of it."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    progress = json.loads((workdir / "progress.json").read_text())
    (workdir / "progress.json").write_text(json.dumps(progress | {"variant": None}))
    started_with = json.loads((workdir / "config.json").read_text())
    started_with["train"]["average_with"] = [str(other_seed)]
    (workdir / "config.json").write_text(json.dumps(started_with))
    for name in ("report.txt", "results.json", "alpha.json"):
        (workdir / name).unlink()
    shutil.rmtree(workdir / "report")
    monkeypatch.setattr(loop, "choose", lambda per_query: variant)
    whole = load_config(config)
    whole.train.average_with = (str(other_seed),)
    result = ldx.train.train(whole, workdir)
    assert read_progress(workdir).kept == variant
    tried = read_tried(workdir)
    assert tried.kept == variant
    assert set(tried.means) == {"checkpoints", "runs"}
    value = {1.5: tried.alphas[1.5], **tried.means}[1.5 if variant == "1.5" else variant]
    assert f"{told} {value:.4f}" in result.text
    assert f"{told} is kept" in result.text
    assert result.verdict.trained == pytest.approx(value)
    assert f"step {read_progress(workdir).best_step}, {told})" in result.verdict.text
    assert f"kept: {told}" in result.page.read_text()
    before, other, after = (
        load_model(folder).towers.query for folder in (finished, other_seed, workdir)
    )
    if variant == "runs":
        expected = average([before, other])
        for ours, theirs in zip(*map(jax.tree.leaves, (after, expected)), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    )
    ldx.export.export(workdir, tmp_path / "export", force=True)
    assert card in (tmp_path / "export" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"average_with": ("/nowhere",)}, "wanted a finished run"),
        ({"average_with": ("OTHER",), "passage_map": "linear"}, "its train.passage_map is ''"),
        ({"average_with": ("OTHER",), "alpha": 0.5}, "alpha=0.5 says what is kept"),
        ({"average_with": "OTHER"}, "wanted folders in brackets"),
    ],
)
def test_runs_that_cannot_be_averaged(config, other_seed, tmp_path, change, message):
    whole = load_config(config)
    plain = json.loads(json.dumps(change).replace("OTHER", str(other_seed)))
    for key, value in plain.items():
        with whole.train.ignore_type():
            whole.train[key] = tuple(value) if isinstance(value, list) else value
    with pytest.raises(UserError, match=message):
        ldx.train.train(whole, tmp_path / "run")


def test_an_unknown_tower_is_refused(config, tmp_path):
    result = train_here(config, tmp_path / "run", "--config.train.towers=passage")
    assert result.returncode == 2
    assert "config.train.towers='passage': wanted both or query" in result.stderr


def test_several_sources_have_their_own_passages(config, tmp_path):
    """Each with its own prompts."""
    records = {name: str(toy.make_records(tmp_path / name)) for name in ("a", "b")}
    whole = load_config(config)
    whole.data.update({"records": "", "root": ""})
    whole.data.sources = {
        "a": {"records": records["a"]},
        "b": {"records": records["b"], "passage_prompt": "drag "},
    }
    whole.train.num_steps = 2
    ldx.train.train(whole, tmp_path / "run")
    first, second = (np.load(tmp_path / "run" / "passages" / n / "passages.npy") for n in "ab")
    assert first.shape == second.shape
    assert not np.allclose(first, second)


def test_alpha_is_chosen_on_dev_or_taken_as_given(config, finished, tiny_bert, tmp_path):
    """The model of the run is base + alpha (best step - base), for whoever loads it."""
    tried = read_tried(finished)
    assert list(tried.alphas) == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert set(tried.means) == {CHECKPOINTS}
    assert read_progress(finished).kept == tried.kept
    workdir = tmp_path / "half"
    shutil.copytree(finished, workdir)
    base = load_student(tiny_bert).params
    whole, kept = best_params(workdir, base)
    progress = json.loads((workdir / "progress.json").read_text())
    (workdir / "progress.json").write_text(json.dumps(progress | {"variant": "0.5"}))
    half, _ = best_params(workdir, base)
    assert kept.best_step > 0
    for ours, trained, before in zip(*map(jax.tree.leaves, (half, whole, base)), strict=True):
        np.testing.assert_allclose(ours, (np.asarray(trained) + before) / 2, atol=1e-6)


def test_an_alpha_that_is_no_number_is_refused(config, tmp_path):
    refused = train_here(config, tmp_path / "other", "--config.train.alpha=fast")
    assert refused.returncode == 2
    assert "config.train.alpha='fast'" in refused.stderr


def test_a_passage_map_is_trained_beside_the_query_tower(config, tiny_bert, tmp_path):
    """The report searches mapped passages, and a loaded run embeds passages with the map.

    A number is taken as alpha, and then the map is 1.5 times what was trained.
    """
    workdir = tmp_path / "run"
    flags = ("--config.train.passage_map=linear", "--config.optim.passage_map_learning_rate=0.001")
    result = train(config, workdir, *flags, "--config.train.alpha=1.5")
    assert result.returncode == 0, result.stderr
    assert read_progress(workdir).kept == "1.5"
    assert "alpha 1.5" in result.stdout.splitlines()[-1]
    model = load_model(workdir)
    assert read_progress(workdir).best_step > 0
    assert np.abs(model.towers.passage_map - np.eye(model.student.embedding_size)).max() > 1e-4
    collection = Path(json.loads((workdir / "config.json").read_text())["data"]["root"])
    report = ldx.evaluate.evaluate(collection, model=model)
    results = json.loads((workdir / "results.json").read_text())
    trained = results["trained"]["nDCG@10"]
    assert report.metrics["nDCG@10"] == pytest.approx(trained, abs=1e-4)
    refused = train_here(config, tmp_path / "both", *flags, "--config.train.towers=both")
    assert refused.returncode == 2
    assert "maps stored passages" in refused.stderr
