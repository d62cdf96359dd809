"""What --model may name."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.models.student import load_student
from ldx.step.state import TrainState
from ldx.training.checkpoint import Checkpoints, Progress
from ldx.training.model import declared_template, load_model
from tests import toy


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


def test_how_title_and_text_were_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the run's config says; of several sources, as all their records say, if they agree."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    records = [str(toy.make_records(tmp_path / name)) for name in ("a", "b")]
    data = {"passage_template": "{title}", "sources": {}}
    several = data | {"sources": {name: {"records": name} for name in records}}
    for section, expected in ((data, "{title}"), (several, "{text}")):
        (tmp_path / "run" / "config.json").write_text(json.dumps({"data": section}))
        assert declared_template(str(tmp_path / "run")) == expected
    manifest = Path(records[1], "manifest.json")
    manifest.write_text(manifest.read_text().replace("{text}", "{title} {text}"))
    assert declared_template(str(tmp_path / "run")) is None

    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "ldx_export.json").write_text('{"passage_template": "{text}!"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    assert declared_template("~/export") == "{text}!"
    assert declared_template("package:x==1") is declared_template(None) is None
