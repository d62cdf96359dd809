"""The training command: a whole run, kills and resumes to the bit, and what it refuses."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import ldx.train
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet, records_fingerprint, write_lists
from tests import toy
from tests.helpers import call_command


@pytest.fixture(scope="module")
def config(tiny_bert, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return toy.make_run(folder, tiny_bert, num_steps=8, eval_every=3)


def command(config: Path, workdir: Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "ldx.train", f"--config={config}", f"--workdir={workdir}", *flags
    ]  # fmt: skip


def train(config: Path, workdir: Path, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(config, workdir, *flags), capture_output=True, text=True)


def train_here(config: Path, workdir: Path, *flags: str) -> subprocess.CompletedProcess:
    """The same in this process, for what ends before anything is compiled."""
    return call_command(ldx.train, f"--config={config}", f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> Path:
    """The workdir of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("finished")
    result = train(config, workdir)
    assert result.returncode == 0, result.stderr
    (workdir / "stdout").write_text(result.stdout)
    (workdir / "stderr").write_text(result.stderr)
    return workdir


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves(finished):
    lines = metrics(finished)
    dev = {line["step"]: line for line in lines if "dev/nDCG@10" in line}
    assert sorted(dev) == [0, 3, 6, 8]
    assert [line["step"] for line in lines if "total" in line] == list(range(1, 9))
    progress = json.loads((finished / "progress.json").read_text())
    best = max(dev.values(), key=lambda line: (line["dev/nDCG@10"], -line["step"]))
    assert progress["best_step"] == best["step"]
    kept = {int(p.name) for p in (finished / "checkpoints").iterdir()}
    assert kept == {6, 7, 8, best["step"]}  # the last two saved, and the last two evaluated
    assert dev[8]["dev/total"] < dev[0]["dev/total"]
    whole = json.loads((finished / "config.json").read_text())
    assert whole["optim"]["warmup_steps"] == 1
    results = json.loads((finished / "results.json").read_text())
    searched = {system for system, facts in results.items() if "index" in facts}
    assert searched == {"base", "trained"}
    assert (results["base"]["index"], results["base"]["recall_of_index"]) == ("exact", 1.0)
    assert set(results) == {"base", "trained"}
    report = (finished / "report.txt").read_text()
    assert (finished / "stdout").read_text() == report
    assert "nDCG@10" in report
    assert report.splitlines()[-1].startswith("Verdict: not distinguishable from the base model: ")
    assert (finished / "report" / "index.html").is_file()
    assert (finished / "report" / "curves.png").stat().st_size > 10_000
    assert list((finished / "tensorboard").iterdir())


def test_a_finished_run_prints_its_report_again(config, finished):
    before = (finished / "metrics.jsonl").read_bytes()
    result = train_here(config, finished)
    assert result.returncode == 0
    assert result.stdout == (finished / "report.txt").read_text()
    assert (finished / "metrics.jsonl").read_bytes() == before


def last_state(workdir: Path) -> list[np.ndarray]:
    step = json.loads((workdir / "progress.json").read_text())["step"]
    folder = (workdir / "checkpoints" / str(step)).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        items = [checkpointer.restore(folder / item) for item in ("params", "opt_state")]
    return [np.asarray(x) for x in jax.tree.leaves(items)]


def start_and_kill(config: Path, workdir: Path, signum: int, num_lines: int) -> str:
    """Start a run and send it a signal once metrics.jsonl has so many lines."""
    log = workdir.with_name(f"{workdir.name}.log")
    with open(log, "w") as file:
        process = subprocess.Popen(command(config, workdir), stderr=file, stdout=file)
        deadline = time.monotonic() + 120
        path = workdir / "metrics.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < num_lines:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signum)
        code = process.wait(timeout=60)
    assert code == (-signum if signum == signal.SIGKILL else 128 + signum), log.read_text()
    return log.read_text()


def test_a_second_start_leaves_a_run_in_peace(config, finished, tmp_path):
    """As a job that a scheduler starts again while the first lives on."""
    workdir = tmp_path / "twice"
    with open(tmp_path / "first.log", "w") as log:
        first = subprocess.Popen(command(config, workdir), stderr=log, stdout=log)
    while not (workdir / "checkpoints").exists():
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    second = train(config, workdir)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert f"is in use by ldx.train, process {first.pid} on " in second.stderr
    assert first.wait(timeout=120) == 0
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_killed_runs_end_as_if_they_had_not_been(config, finished, tmp_path):
    """SIGKILL, SIGTERM and ctrl-C at several places; parameters, optimiser, metrics to the bit."""
    workdir = tmp_path / "killed"
    start_and_kill(config, workdir, signal.SIGKILL, 2)
    for signum, num_lines in ((signal.SIGTERM, 5), (signal.SIGINT, 9)):
        log = start_and_kill(config, workdir, signum, num_lines)
        assert "going on from step" in log
        if signum != signal.SIGKILL:
            assert "is saved" in log
            assert "Traceback" not in log
    result = train(config, workdir)
    assert result.returncode == 0, result.stderr
    for name in ("metrics.jsonl", "progress.json", "results.json", "report.txt"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    for ours, undisturbed in zip(last_state(workdir), last_state(finished), strict=True):
        np.testing.assert_array_equal(ours, undisturbed)


def test_a_run_speaks_of_the_settings_that_its_records_were_made_by(finished, caplog):
    """So the command need not repeat the flags of the preparation."""
    manifest = Manifest.read(
        Path(json.loads((finished / "config.json").read_text())["data"]["records"])
    )
    made_by = {"queries": "log", "log": "/there/queries.txt", "packages": ["numpy"]}
    config = {"prep": {"queries": "extractive", "log": "", "packages": ("numpy",)}}
    with_settings = dataclasses.replace(manifest, settings=made_by)
    with caplog.at_level("INFO"):
        found = ldx.train._with_settings_of_records(config, {"": with_settings})
    assert found["prep"] == made_by
    assert "config.prep is that of the records: queries='log'" in caplog.text
    assert "queries.txt" not in caplog.text
    assert ldx.train._with_settings_of_records(config, {"": manifest}) == config
    several = {"a": with_settings, "b": with_settings}
    assert ldx.train._with_settings_of_records(config, several) == config


def test_only_the_process_that_reports_needs_the_judged_collection(config, finished, monkeypatch):
    """What processes compare is without judgments, which the folder of a run keeps."""
    compared = []
    monkeypatch.setattr(
        "ldx.parallel.processes.check_same", lambda _, value: compared.append(value)
    )
    assert train_here(config, finished).returncode == 0
    fingerprints = json.loads((finished / "fingerprints.json").read_text())
    assert "judgments" in fingerprints
    [(_, shared, _)] = compared
    assert shared == {k: v for k, v in fingerprints.items() if k != "judgments"}


def test_going_on_with_other_settings_is_refused_by_name(config, finished):
    result = train_here(config, finished, "--config.optim.b1=0.5", "--config.seed=3")
    assert result.returncode == 2
    assert "config.optim.b1: the run has 0.9, now 0.5" in result.stderr
    assert "config.seed" in result.stderr
    assert "new --workdir" in result.stderr
    result = train_here(config, finished, "--config.logging.every_steps=3")
    assert result.returncode == 0


def test_an_unhelpful_training_stops_and_returns_the_base_model(config, tmp_path):
    """A run that makes every dev loss worse stops after two evaluations."""
    flags = ["--config.optim.learning_rate=1.0", "--config.train.eval_every=1"]
    result = train(config, tmp_path, *flags, "--config.train.stop_on=loss")
    assert result.returncode == 0, result.stderr
    assert "dev loss did not improve in 2 evaluations in a row" in result.stdout
    assert "the base model is what is kept" in result.stdout
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["step"], progress["best_step"]) == (2, 0)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["trained"]["nDCG@10"] == results["base"]["nDCG@10"]


def damage_lists(records: Path) -> None:
    (file,) = (records / "lists" / "1.0.0").glob("*train*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def triple_scores(records: Path) -> None:
    """A list with scores outside [0, 1]."""
    manifest = Manifest.read(records)
    lists = {split: list(ListSet(records, split)) for split in ("train", "dev")}
    first = lists["train"][0]
    lists["train"][0] = dataclasses.replace(first, teacher_scores=first.teacher_scores * 3)
    write_lists(records, lists)
    fingerprints = {s: records_fingerprint(records, s) for s in ("passages", "lists")}
    dataclasses.replace(manifest, fingerprints=fingerprints).write(records)


def replace_lists(records: Path) -> None:
    """Other lists, as many, under the old manifest."""
    lists = {split: list(ListSet(records, split)) for split in ("train", "dev")}
    manifest = (records / "manifest.json").read_text()
    write_lists(records, {split: each[::-1] for split, each in lists.items()})
    (records / "manifest.json").write_text(manifest)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda records: os.rename(records, records.with_name("gone")), "data_prep.run"),
        (damage_lists, "tfrecord"),
        (triple_scores, "teacher scores from 0"),
        (replace_lists, "not what manifest.json was written for"),
    ],
    ids=["missing", "corrupted", "scores outside [0, 1]", "of another preparation"],
)
def test_bad_records(config, tmp_path, damage, message):
    records = toy.make_records(tmp_path / "records")
    damage(records)
    result = train_here(config, tmp_path / "run", f"--config.data.records={records}")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.model.path=absent", "absent"),
        ("--config.data.batch_size=0", "config.data.batch_size=0"),
        ("--config.train.stop_on=never", "config.train.stop_on='never'"),
        ("--config.model.passage_max_length=4096", "passage_max_length"),
        ("--config.data.passage_template={title}", "config.data.passage_template"),
        ("--config.loss.listwise_kl.student_temperature=0.0", "student_temperature"),
        ("--config.train.bucket_lengths=(8,16)", "bucket_lengths"),
        ("--config.train.dev_pool=1", "dev_pool"),
        ("--config.seed=-1", "config.seed=-1"),
        ("--config.optim.learning_rate=fast", "config.optim.learning_rate='fast'"),
        ("--config.data.list_size=-3", "config.data.list_size=-3"),
        ("--config.data.root=absent", "config.data.root=absent: no such folder"),
        ("--config.eval.index=faiss", "config.eval.index='faiss'"),
        ("--config.eval.relevance_level=0", "config.eval.relevance_level=0"),
    ],
)
def test_bad_settings(config, tmp_path, flag, message):
    result = train_here(config, tmp_path / "run", flag)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_collection_is_met_before_training(config, tmp_path):
    root = toy.make_collection(tmp_path / "collection")
    with open(root / "corpus.jsonl", "a") as file:
        file.write("{broken\n")
    result = train_here(config, tmp_path / "run", f"--config.data.root={root}")
    assert result.returncode == 2, result.stderr
    assert "corpus.jsonl:41" in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_judgments_a_run_ends_all_the_same(config, tmp_path):
    root = toy.make_collection(tmp_path / "collection")
    (root / "qrels" / "test.tsv").unlink()
    flags = [f"--config.data.root={root}", "--config.train.num_steps=1"]
    result = train(config, tmp_path / "run", *flags)
    assert result.returncode == 0, result.stderr
    assert "No human judgments were given" in result.stdout
    shutil.rmtree(root)  # what was begun goes on without the collection
    again = train_here(config, tmp_path / "run", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout == result.stdout


def test_import_is_light():
    """Importing the trainer loads nothing that only data_prep or tests need."""
    code = "import sys, ldx.train; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(result.stdout.split())
    assert "jax" in loaded
    assert not loaded & {"torch", "tensorflow", "vllm", "scann", "rax", "transformers"}
