"""What --model may name."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldx.checkpoint import Checkpoints, Progress
from ldx.errors import UserError
from ldx.eval.model import load_model
from ldx.models.student import load_student
from ldx.train_state import TrainState


def test_a_folder_with_other_lengths(tiny_bert: Path) -> None:
    model = load_model(str(tiny_bert), query_max_length=8, passage_max_length=None)
    assert model.student.config.query_max_length == 8
    assert model.student.config.passage_max_length == 64
    assert model.params is model.student.params


def test_a_workdir_gives_its_best_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    student = load_student(tiny_bert)
    section = {"path": str(tiny_bert), "pooling": "cls", "query_max_length": 16}
    (tmp_path / "config.json").write_text(json.dumps({"model": section}))
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        params = jax.tree.map(lambda x, step=step: x + step, student.params)
        state = TrainState(jnp.int32(step), params, {"count": jnp.int32(step)})
        checkpoints.save(state, Progress(step=step, evaluated_step=step, best_step=1))
    model = load_model(str(tmp_path), passage_max_length=32)
    config = model.student.config
    assert (config.pooling, config.query_max_length, config.passage_max_length) == ("cls", 16, 32)
    for got, base in zip(
        jax.tree.leaves(model.params), jax.tree.leaves(student.params), strict=True
    ):
        np.testing.assert_array_equal(got, base + 1)
    assert model.fingerprint != model.student.fingerprint


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_model(str(tmp_path / "nowhere"))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no section model"):
        load_model(str(tmp_path))
