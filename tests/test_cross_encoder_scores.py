"""Trains on the scores of two real cross-encoders: TREC DL 2019, from LDX_DATA_DIR.

The commands of configs/msmarco_dl19.py as a user gives them.
"""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet
from ldx.training.checkpoint import read_progress

ROOT = Path(__file__).parents[1]
STEPS = 8
# What makes it a matter of two to four minutes.
SHORT = [f"--config.train.num_steps={STEPS}", f"--config.train.eval_every={STEPS}"]
SHORT += ["--config.model.passage_max_length=64", "--config.train.dev_pool=500"]


def run(module: str, *flags: str) -> None:
    command = [sys.executable, "-m", module, "--config=configs/msmarco_dl19.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def workdir(data_dir: Path, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir, root = tmp_path_factory.mktemp("cross_encoders"), data_dir / "msmarco_dl19"
    bert, other = (root / "teacher_runs" / f"{n}.tsv.gz" for n in ("idst_bert_p1", "p_bert"))
    if not bert.is_file():
        pytest.skip(f"{bert} is not there")
    shared = [f"--workdir={workdir}", f"--config.data.root={root}"]
    run(
        "data_prep.run",
        *shared,
        f"--config.prep.retrievers.run.path={bert}",
        f"--config.prep.teachers.bert.path={bert}",
        f"--config.prep.teachers.other.path={other}",
    )
    run("ldx.train", *shared, *SHORT)
    return workdir


@pytest.mark.slow
def test_records_hold_both_teachers_calibrated_and_fused(workdir: Path) -> None:
    manifest = Manifest.read(workdir / "records")
    assert [teacher["name"] for teacher in manifest.teachers] == ["bert", "other"]
    scales = [manifest.calibration["scales"]["human"][name] for name in ("bert", "other")]
    low, high = (np.array([[scale[end]] for scale in scales]) for end in ("low", "high"))
    for split in ("train", "dev"):
        lists = ListSet(workdir / "records", split)
        assert len(lists)
        for number in range(len(lists)):
            raw = np.reshape(lists[number].raw_scores, (2, -1))
            expected = np.clip((raw - low) / (high - low), 0, 1).mean(axis=0)
            np.testing.assert_allclose(lists[number].teacher_scores, expected, atol=1e-5)


@pytest.mark.slow
def test_queries_that_were_left_out_come_nearer_to_the_teacher(workdir: Path) -> None:
    trained_on = {each.query_id for each in ListSet(workdir / "records", "train")}
    left_out = [each.list_id for each in ListSet(workdir / "records", "dev")]
    progress = read_progress(workdir)
    assert progress.step == progress.best_step == STEPS
    with open(workdir / "report" / "dev_lists.csv") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["list_id"] for row in rows) == sorted(left_out)
    assert not trained_on & {list_id.partition("/")[2] for list_id in left_out}
    ranges = {"listwise_kl": (0, math.inf), "kendall_tau": (-1, 1)}
    ranges |= {"teacher_ndcg": (0, 1), "nDCG@10": (0, 1)}
    means = {}
    for system in ("base", "trained"):
        for number, (low, high) in ranges.items():
            values = [float(row[f"{number}_{system}"]) for row in rows]
            assert all(low <= value <= high for value in values)
            means[number, system] = np.mean(values)
    # The order may follow or not: docs/results.md says what was seen.
    assert means["listwise_kl", "trained"] < means["listwise_kl", "base"]
