"""Tests of data_prep/checks.py: what is wrong is told before the first stage."""

import pytest

from configs import base
from data_prep.checks import check_config
from ldx.errors import UserError

MISTAKES = {
    "teachers.x": ({"kind": "cross_encoder", "modell": "m"}, r"teachers\.x\.modell.*did you mean"),
    "teachers.y": ({"kind": "oracle"}, "known are hybrid, cross_encoder"),
    "teachers.hybrid.weight": (0, "weight=0: wanted a number over 0"),
    "teachers.hybrid.dense": ("bge", "dense='bge' names none of them"),
    "retrievers.student.poolin": ("cls", "did you mean pooling"),
    "llm.backend": ("ollama", "wanted vllm or openai"),
    "llm.engine_args": ({"trust_remote_code": True}, "no code of a model is ever run"),
    "query_types": (("question", "poem"), "no prompt is called 'poem'"),
    "candidate_depth": (10, "leave a query 10 candidates"),
    "num_candidates": (5, "leave a query 5 candidates"),
    "min_top_score_percentile": (150.0, "from 0 to under 100"),
    "max_queries": (-1, "max_queries=-1"),
    "dev_fraction": (0.0, "over 0 and under 1"),
    "sampling_strategy": ("random", "wanted top or spread"),
    "calibration": ("softmax", "wanted percentile or z_score or rank"),
}


@pytest.fixture
def config():
    config = base.get_config().unlock()
    config.prep.queries = "llm"
    return config


def test_the_defaults_pass(config):
    check_config(config)
    config.prep.queries = "human+extractive"
    check_config(config)


@pytest.mark.parametrize("key", MISTAKES)
def test_mistakes_are_named(config, key):
    value, message = MISTAKES[key]
    config.prep.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        check_config(config)
