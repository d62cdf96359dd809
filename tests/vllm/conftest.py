"""Tests with a real vLLM on CPU: `make test-vllm`. Where vLLM is not installed they are skipped."""

import importlib.util
import os
from pathlib import Path

import pytest

from data_prep.engines.ray_cluster import prepare_ray

HERE = Path(__file__).parent

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
prepare_ray("")  # vLLM imports Ray, which reads its settings then


def pytest_configure(config):
    config.addinivalue_line("markers", "vllm: needs vLLM; run with `make test-vllm`")


def pytest_collection_modifyitems(items):
    missing = importlib.util.find_spec("vllm") is None
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.vllm)
        # vLLM and what it imports warn of many things that are not ours.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if missing:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed; make test-vllm"))
