"""Tests of ldx/common/configs.py: the forms that a config has, and what of it is shown."""

import sys

import pytest
from ml_collections import ConfigDict

from configs import base, demo
from ldx.common.configs import changes_from_base, load_config, plain_config
from ldx.common.errors import UserError


def test_every_form_of_a_config_is_the_same():
    config = demo.get_config()
    forms = [config, config.to_dict(), "configs/demo.py"]
    assert all(plain_config(form, ["seed", "model"]) == config.to_dict() for form in forms)
    assert plain_config("configs/demo.py:smoke", []) == demo.get_config("smoke").to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", r"line 1"),
        ("def get_config(): raise ValueError('no model')", "no model"),
        ("x = 1\n", "no function get_config"),
        ("from configs import bsae\n", "bsae"),
        ("import nowhere_at_all\n", "nowhere_at_all"),
    ],
)
def test_a_broken_file_is_one_message(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "broken.py")


def test_what_differs_from_the_base_is_shown():
    config = base.get_config()
    config.data.batch_size = 24
    resolved = config.to_dict()
    resolved["optim"]["learning_rate"] = 1e-4  # "auto" in the config
    resolved["train"]["bucket_lengths"] = None
    assert changes_from_base(config.to_dict(), resolved).splitlines() == [
        "  data.batch_size = 24",
        "  optim.learning_rate = 0.0001  (auto)",
    ]


def test_without_the_base_all_is_shown(monkeypatch):
    monkeypatch.delitem(sys.modules, "configs.base")
    config = ConfigDict({"model": {"path": "x"}, "seed": 0}).to_dict()
    lines = changes_from_base(config, config).splitlines()
    assert lines == ["  model.path = 'x'", "  seed = 0"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config=None: wanted a config, or the path of its file"),
        ({"seed": 0}, r"config\.model is missing"),
        ({"seed": 0, "model": 5}, r"config\.model=5: wanted a section with keys"),
        ({"study": {}}, "this config is a study"),
    ],
)
def test_what_is_no_experiment(config, message):
    with pytest.raises(UserError, match=message):
        plain_config(config, ["seed", "model"])
