"""The examples of docs/losses.md run, and its table names every loss."""

import re
import types
from pathlib import Path

import numpy as np

from configs import base
from ldx.data.lists import Lists
from ldx.losses import LOSSES, list_scores
from ldx.losses.loss import Loss
from ldx.step.objective import make_objective

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()


def run_example(number):
    """The module that the page's example is."""
    module = types.ModuleType(f"example_{number}")
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number], module.__dict__)
    return module


def test_the_added_loss_is_trained_with(monkeypatch):
    added = run_example(0).SCORE_MSE
    monkeypatch.setitem(LOSSES, added.name, added)
    config = run_example(1).get_config().loss.to_dict()
    config["info_nce"]["weight"] = 0.0
    objective = make_objective(config)
    assert objective.learn_from("teacher_scores") == ["score_mse"]
    assert not objective.comparing_losses

    rng = np.random.default_rng(0)
    q, p = rng.normal(size=(3, 8)).astype("f"), rng.normal(size=(7, 8)).astype("f")
    index = np.stack([rng.permutation(7)[:4] for _ in range(3)])
    teacher, where = rng.uniform(size=(3, 4)).astype("f"), rng.uniform(size=(3, 4)) < 0.7
    total, values = objective(q, p, Lists(index, teacher, np.full((3, 4), -1), where))
    errors = np.square(np.asarray(list_scores(q, p, index)) / 0.5 - teacher)
    expected = np.mean([e[w].mean() for e, w in zip(errors, where, strict=True) if w.any()])
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert set(values) == {"score_mse", "total"}


def test_every_loss_is_in_the_tables():
    for name in LOSSES:
        assert PAGE.count(f"`{name}`") >= 2, name


def test_every_field_is_in_the_table():
    for field in Loss.__dataclass_fields__:
        assert f"\n| `{field}` |" in PAGE


def test_the_config_spells_out_the_defaults():
    sections = base.get_config().loss.to_dict()
    for name, loss in LOSSES.items():
        assert loss.with_defaults({}) == {k: v for k, v in sections[name].items() if k != "weight"}
