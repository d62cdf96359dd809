"""Checkpoints count once progress.json names them, and what it names is always there."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldx.common.errors import UserError
from ldx.step.state import TrainState, init_state
from ldx.training.checkpoint import (
    UNFINISHED_SUFFIX,
    Checkpoints,
    Progress,
    best_params,
    read_progress,
)

OPTIMIZER = optax.adam(1e-3)


def state_at(step: int, size: int = 3) -> TrainState:
    state = init_state({"w": np.full(size, float(step), np.float32)}, OPTIMIZER)
    return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))


def save_all(workdir, steps, best_step):
    checkpoints = Checkpoints(workdir)
    for step in steps:
        best = best_step if step >= best_step else 0
        progress = Progress(step=step, evaluated_step=step, best_step=best)
        checkpoints.save(state_at(step), progress)
    return checkpoints


def steps_on_disk(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


def test_best_and_last_two_are_kept(tmp_path):
    save_all(tmp_path, range(7), best_step=2)
    assert steps_on_disk(tmp_path) == {2, 5, 6}


def test_restore_gives_the_state_back(tmp_path):
    save_all(tmp_path, range(4), best_step=1)
    progress = read_progress(tmp_path)
    state = Checkpoints(tmp_path).restore(state_at(0), progress)
    assert state.step == 3
    np.testing.assert_array_equal(state.params["w"], 3.0)
    params, progress = best_params(tmp_path, state_at(0).params)
    assert progress.best_step == 1
    np.testing.assert_array_equal(params["w"], 1.0)


def test_what_progress_does_not_name_is_discarded(tmp_path):
    """As after a kill between a checkpoint and its progress."""
    save_all(tmp_path, range(3), best_step=0)
    before = (tmp_path / "progress.json").read_bytes()
    Checkpoints(tmp_path).save(state_at(9), Progress(step=3, evaluated_step=3))
    (tmp_path / "progress.json").write_bytes(before)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.discard_uncommitted(read_progress(tmp_path))
    assert steps_on_disk(tmp_path) == {0, 2}
    checkpoints.save(state_at(3), Progress(step=3, evaluated_step=3))
    restored = checkpoints.restore(state_at(0), read_progress(tmp_path))
    np.testing.assert_array_equal(restored.params["w"], 3.0)


def test_checkpoints_before_the_first_progress_are_discarded(tmp_path):
    save_all(tmp_path, [0], best_step=0)
    (tmp_path / "progress.json").unlink()
    Checkpoints(tmp_path).discard_uncommitted(read_progress(tmp_path))
    assert steps_on_disk(tmp_path) == set()


def test_later_checkpoints_without_progress_are_not_touched(tmp_path):
    save_all(tmp_path, range(3), best_step=1)
    (tmp_path / "progress.json").unlink()
    with pytest.raises(UserError, match=r"progress\.json is missing"):
        Checkpoints(tmp_path).discard_uncommitted(read_progress(tmp_path))
    assert steps_on_disk(tmp_path) == {1, 2}


def test_looking_at_a_run_does_not_disturb_it(tmp_path):
    save_all(tmp_path, range(2), best_step=1)
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    best_params(tmp_path, state_at(0).params)
    assert unfinished.is_dir()
    Checkpoints(tmp_path)
    assert not unfinished.exists()


def test_a_killed_save_is_removed(tmp_path, monkeypatch):
    """Orbax renames a checkpoint when it is whole; a kill before that leaves the other name."""

    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", kill)
    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        save_all(tmp_path, [3], best_step=0)
    monkeypatch.undo()
    [unfinished] = (tmp_path / "checkpoints").iterdir()
    assert UNFINISHED_SUFFIX in unfinished.name
    Checkpoints(tmp_path)
    assert not unfinished.exists()


EARLY = """
import logging
logging.getLogger("absl").setLevel(logging.INFO)  # absl is not imported yet
import sys
from pathlib import Path
from absl import logging as absl_logging
from ldx.training.checkpoint import Checkpoints
absl_logging.info("a line of the program")
Checkpoints(Path(sys.argv[1]), read_only=True)
"""


def test_orbax_is_quiet_for_a_logger_that_is_older_than_absl(tmp_path):
    save_all(tmp_path, [0], best_step=0)
    command = [sys.executable, "-c", EARLY, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == "INFO:absl:a line of the program\n"


@pytest.mark.parametrize(("level", "is_quiet"), [("INFO", True), ("DEBUG", False)])
def test_orbax_is_quiet_while_it_works_for_us(tmp_path, caplog, level, is_quiet):
    """A program that shows the log at INFO sees no line of Orbax, neither details nor warnings."""
    caplog.set_level(level, logger="absl")
    save_all(tmp_path, range(4), best_step=1)
    best_params(tmp_path, state_at(0).params)
    Checkpoints(tmp_path).restore(state_at(0), read_progress(tmp_path))
    lines = [record for record in caplog.records if "orbax" in record.pathname]
    assert (not lines) == is_quiet
    assert not logging.getLogger("absl").filters


def test_faults_are_named(tmp_path):
    with pytest.raises(UserError, match="without a checkpoint yet"):
        best_params(tmp_path, state_at(0).params)
    save_all(tmp_path, [0], best_step=0)
    with pytest.raises(UserError, match="not a checkpoint of this model"):
        Checkpoints(tmp_path).restore(state_at(0, size=5), read_progress(tmp_path))
    (tmp_path / "progress.json").write_text(json.dumps({"step": 4, "evaluated_step": 4}))
    with pytest.raises(UserError, match=r"checkpoints/4 is missing"):
        Checkpoints(tmp_path).restore(state_at(0), read_progress(tmp_path))
    (tmp_path / "progress.json").write_text(json.dumps({"stage": 4}))
    with pytest.raises(UserError, match="not written by this version"):
        read_progress(tmp_path)


def test_a_full_disk_is_met_before_anything_is_written(tmp_path, monkeypatch):
    save_all(tmp_path, [0], best_step=0)
    usage = type(shutil.disk_usage(tmp_path))(100, 99, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="the disk is full"):
        Checkpoints(tmp_path).save(state_at(1), Progress(step=1))
    assert steps_on_disk(tmp_path) == {0}
    assert read_progress(tmp_path).step == 0
