"""A workspace: its checked settings, and the fingerprints that finished work is keyed by."""

import pytest
from ml_collections import ConfigDict

from configs import base
from data_prep import score
from data_prep.pipeline import workspace as module
from data_prep.pipeline.workspace import config_fingerprint, open_workspace
from ldx.common.errors import UserError


@pytest.fixture
def config():
    config = base.get_config().unlock()
    config.seed = 7
    config.prep.teachers = ConfigDict({"hybrid": {"kind": "hybrid", "dense_weight": None}})
    config.prep.dev_fraction = 0.1
    config.prep.max_rejects = 0.01
    config.prep.packages = ("numpy", "scipy")
    config.prep.query_types = None
    return config


def test_settings_are_the_checked_section(config, tmp_path):
    workspace = open_workspace(config, tmp_path)
    assert workspace.settings.teachers == {"hybrid": {"kind": "hybrid", "dense_weight": None}}
    assert workspace.settings.llm.backend == "vllm"
    config.prep.dev_fraction = 2.0
    with pytest.raises(UserError, match=r"config\.prep\.dev_fraction=2\.0"):
        open_workspace(config, tmp_path)
    config.prep.dev_fraction = 0.1
    config.prep.llm.timeout = 0
    with pytest.raises(UserError, match=r"config\.prep\.llm\.timeout=0"):
        open_workspace(config, tmp_path)


def test_fingerprints_of_configs_stay_what_they_are(config, tmp_path, monkeypatch):
    """Finished work is kept under them: values from before settings were kept checked."""
    monkeypatch.setattr(module, "STAGES_VERSION", 5)
    workspace = open_workspace(config, tmp_path)
    assert config_fingerprint(workspace, score.STAGE.keys) == "27d7ebc584943f5da754876fd415fdb7"
    keys = ("prep.packages", "prep.query_types", "prep.teachers")
    assert config_fingerprint(workspace, keys) == "959bd8968f407386035a83aa2fc91c35"
