"""These tests need the optimisation that tests/conftest.py leaves out."""

import os

import pytest


@pytest.fixture(autouse=True)
def _is_optimised() -> None:
    flags = os.environ.get("XLA_FLAGS", "").split()
    levels = [flag for flag in flags if "backend_optimization_level" in flag]
    if levels and levels[-1].endswith("=0"):
        pytest.skip("XLA does not optimise here; `make test-golden` runs it")
