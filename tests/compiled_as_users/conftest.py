"""These tests need the optimisation that tests/conftest.py leaves out."""

import os

import pytest


@pytest.fixture(autouse=True)
def _is_optimised() -> None:
    levels = [x for x in os.environ["XLA_FLAGS"].split() if "backend_optimization_level" in x]
    if levels and levels[-1].endswith("=0"):
        pytest.skip("XLA does not optimise here; `make test-golden` runs it")
