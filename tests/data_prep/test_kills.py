"""SIGKILL at random moments, again and again: the records are the same bytes in the end."""

import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from data_prep.run import STAGES
from tests.data_prep import toy
from tests.data_prep.teacher_models import make_bert

NUM_KILLS = 22
MOST_NEW_FILES = 8  # after so many at most a process is killed
LONGEST_WAIT = 0.3  # seconds after the last of them


@pytest.fixture(scope="module")
def config(tiny_bert, tmp_path_factory) -> ConfigDict:
    folder = tmp_path_factory.mktemp("kills")
    config = toy.make_config(toy.make_collection(folder / "toy"), tiny_bert)
    config.prep.shard_size = 9
    model = str(make_bert(folder / "encoder", 1))
    config.prep.teachers.encoder = ConfigDict(
        {"kind": "cross_encoder", "model": model, "max_length": 64}
    )
    return config


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "transformers", *(f"data_prep.{name}" for name in STAGES)]
    )
    return context


def records_of(workdir: Path) -> dict[str, bytes]:
    folder = workdir / "records"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}


def num_files(workdir: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(workdir))


def stages_done(workdir: Path) -> int:
    return sum((workdir / "prep" / f"{name}.json").is_file() for name in STAGES)


def test_killed_at_random_moments(config, processes, tmp_path):
    whole = processes.Process(target=toy.run_stages, args=(config, tmp_path / "whole"))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    wanted = records_of(tmp_path / "whole")
    assert {"manifest.json"} < set(wanted)
    rng = random.Random(0)
    killed_in, number, workdir = [], 0, tmp_path / "killed-0"
    while len(killed_in) < NUM_KILLS:
        if stages_done(workdir) == len(STAGES):
            assert records_of(workdir) == wanted
            number += 1
            workdir = tmp_path / f"killed-{number}"
        process = processes.Process(target=toy.run_stages, args=(config, workdir))
        process.start()
        enough = num_files(workdir) + rng.randint(0, MOST_NEW_FILES)
        while process.is_alive() and num_files(workdir) < enough:
            time.sleep(0.002)
        time.sleep(LONGEST_WAIT * rng.random())
        if process.is_alive():
            process.kill()
            process.join()
            killed_in.append(stages_done(workdir))
        else:
            assert process.exitcode == 0
    last = processes.Process(target=toy.run_stages, args=(config, workdir))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert records_of(workdir) == wanted
    # Not all of them in the same stage.
    assert len(set(killed_in)) >= 4, killed_in
