"""SIGKILL at random moments, again and again: the records are the same bytes in the end."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from data_prep.run import STAGES
from tests.data_prep import toy
from tests.data_prep.teacher_models import make_bert

MOST_NEW_FILES = 12  # after so many at most a process is killed
LONGEST_WAIT = 0.3  # seconds after the last of them


@pytest.fixture(scope="module")
def config(tiny_bert, tmp_path_factory) -> ConfigDict:
    folder = tmp_path_factory.mktemp("kills")
    config = toy.make_config(toy.make_collection(folder / "toy"), tiny_bert)
    config.prep.shard_size = 12
    config.prep.candidate_depth = 8  # a transformer scores them, twice at least
    model = str(make_bert(folder / "encoder", 1))
    config.prep.teachers.encoder = ConfigDict(
        {"kind": "cross_encoder", "model": model, "max_length": 64}
    )
    return config


@pytest.fixture
def start(config, tmp_path):
    """Start all stages in one process, which begins where an earlier one was killed."""
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    program = (
        "import json, pathlib, sys\n"
        "from ml_collections import ConfigDict\n"
        "from tests.data_prep.toy import run_stages\n"
        "run_stages(ConfigDict(json.load(open(sys.argv[1]))), pathlib.Path(sys.argv[2]))\n"
    )

    def run(workdir: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(workdir)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return run


def records_of(workdir: Path) -> dict[str, bytes]:
    folder = workdir / "records"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}


def num_files(workdir: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(workdir))


def stages_done(workdir: Path) -> int:
    return sum((workdir / "prep" / f"{name}.json").is_file() for name in STAGES)


@pytest.mark.parametrize(
    ("num_kills", "num_stages"), [(2, 2), pytest.param(22, 4, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments(start, tmp_path, num_kills, num_stages):
    assert start(tmp_path / "whole").wait() == 0
    wanted = records_of(tmp_path / "whole")
    assert {"manifest.json"} < set(wanted)
    rng = random.Random(num_kills)
    killed_in, number, workdir = [], 0, tmp_path / "killed-0"
    while len(killed_in) < num_kills:
        if stages_done(workdir) == len(STAGES):
            assert records_of(workdir) == wanted
            number += 1
            workdir = tmp_path / f"killed-{number}"
        process = start(workdir)
        enough = num_files(workdir) + rng.randint(1, MOST_NEW_FILES)
        while process.poll() is None and num_files(workdir) < enough:
            time.sleep(0.002)
        time.sleep(LONGEST_WAIT * rng.random())
        if process.poll() is None:
            process.kill()
            process.wait()
            killed_in.append(stages_done(workdir))
        else:
            assert process.returncode == 0
    assert start(workdir).wait() == 0
    assert records_of(workdir) == wanted
    # Not all of them in the same stage.
    assert len(set(killed_in)) >= num_stages, killed_in
