"""Several corpora in one run: SciFact and NFCorpus, killed and resumed, on 1 and 8 devices."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ldx.train
from data_prep.retrieval.bm25 import Bm25
from ldx.eval.beir import read_corpus
from ldx.records.schema import ListRecord, Passage, passage_text
from ldx.records.sets import write_lists, write_passages
from tests import toy
from tests.helpers import call_command


def make_records(folder: Path, root: Path, num_passages: int, num_train: int) -> Path:
    """Titles as queries, the 5 best of BM25 among the first passages, their scores as teacher."""
    corpus = read_corpus(root)
    titles, texts = corpus.titles[:num_passages], corpus.texts[:num_passages]
    write_passages(
        folder,
        (Passage(*x) for x in zip(corpus.doc_ids, titles, texts, strict=False)),
    )
    joined = [passage_text(title, text) for title, text in zip(titles, texts, strict=True)]
    bm25 = Bm25.open_or_build(folder / "bm25", joined, key="joined", language="english")
    lists = []
    for row in range(num_train + 20):
        words = titles[row].split()
        is_title = row % 2 == 0
        query = titles[row] if is_title else " ".join(words[::2])
        scores = bm25.pair_scores([query] * num_passages, texts)
        scores[row] = scores.max() + 1
        rows = np.argsort(-scores, kind="stable")[:5]
        lists.append(
            ListRecord(
                list_id=f"{root.name}/{row}",
                query_id=str(row),
                query=query,
                query_type="title" if is_title else "words",
                source=root.name,
                source_row=row,
                rows=rows,
                labels=np.full(5, -1, np.int32),
                teacher_scores=(scores[rows] / scores[rows[0]]).clip(0, 1).astype(np.float32),
                raw_scores=np.zeros(0, np.float32),
                order_key=row,
            )
        )
    counts = write_lists(folder, {"train": lists[:num_train], "dev": lists[num_train:]})
    toy.write_manifest(folder, root.name, num_passages, counts, "{title} {text}")
    return folder


@pytest.fixture(scope="module")
def config(tiny_bert, data_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    sources = {
        "scifact": {"records": str(make_records(folder / "a", data_dir / "scifact", 60, 40))},
        "nfcorpus": {
            "records": str(make_records(folder / "b", data_dir / "nfcorpus", 90, 50)),
            "weight": 2.0,
            "query_prompt": "question: ",
        },
    }
    return toy.write_config(
        folder / "config.py",
        model={"path": str(tiny_bert)},
        data={
            "batch_size": 16,
            "sources": sources,
            "query_type_weights": {"words": 0.5},
        },
        train={
            "num_steps": 12,
            "eval_every": 6,
            "dev_pool": 60,
            "activation_bytes": 0,
        },
        eval={"split": ""},
    )


def start(config: Path, workdir: Path, *flags: str, num_devices: int = 1) -> subprocess.Popen:
    command = [sys.executable, "-m", "ldx.train", f"--config={config}", f"--workdir={workdir}"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(num_devices)}
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, finish(start(config, workdir))


def test_sources_take_turns_and_have_metrics_of_their_own(undisturbed):
    workdir, output = undisturbed
    steps = [line for line in lines(workdir) if "source" in line]
    # 30 lists of SciFact (half of the 20 of type words), twice as many of NFCorpus' 37.5.
    turns = ["nfcorpus", "scifact"] * 2 + ["nfcorpus"] * 3
    assert [line["source"] for line in steps] == (turns + turns)[:12]
    dev = next(line for line in lines(workdir) if "dev/total" in line)
    mean = (dev["dev/scifact/total"] + dev["dev/nfcorpus/total"]) / 2  # 20 dev lists each
    assert dev["dev/total"] == pytest.approx(mean)
    assert "epoch 1 drew 105 lists: " in output
    assert "scifact/title 20 (19%)" in output
    assert "scifact/words 10" in output
    assert "nfcorpus/title 50" in output
    assert "nfcorpus/words 25" in output


@pytest.mark.slow  # tests/test_train.py kills a run of one source by default
def test_a_killed_run_goes_on_to_the_bit(config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    process = start(config, workdir, "--config.checkpoint.every_minutes=0.0")
    end = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() or len(lines(workdir)) < 4:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    output = finish(start(config, workdir))
    assert "going on from step" in output
    assert lines(workdir) == lines(undisturbed[0])


@pytest.mark.slow  # tests/parallel trains on two sources by default
def test_eight_devices_give_the_same_losses(config, undisturbed, tmp_path):
    finish(start(config, tmp_path / "run", "--config.train.fsdp=2", num_devices=8))
    for ours, theirs in zip(lines(tmp_path / "run"), lines(undisturbed[0]), strict=True):
        for name, value in ours.items():
            if isinstance(value, float):
                assert value == pytest.approx(theirs[name], rel=2e-3), name


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.records=somewhere", "config.data.records='somewhere' is set beside"),
        ("--config.data.query_type_weights.words=-1.0", "query_type_weights.words=-1.0"),
        ("--config.data.sources.scifact.records=absent", "absent/manifest.json"),
        ("--config.data.sources.nfcorpus.weight=0.0", "weight=0.0"),
    ],
)
def test_bad_sources_are_named(config, tmp_path, flag, message):
    workdir = tmp_path / "run"
    result = call_command(ldx.train, f"--config={config}", f"--workdir={workdir}", flag)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
