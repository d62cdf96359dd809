"""Kept activations change nothing, in float32 (tests/step sees it in float64)."""

import pytest

pytest.importorskip("torch")

from tests.benchmarks.step_cases import batch_numbers
from tests.benchmarks.step_folders import random_bert
from tests.benchmarks.step_ours import OurSide
from tests.benchmarks.step_toy import PLENTY, SIZES, make_setup, write_lists


@pytest.mark.slow
def test_kept_activations_change_no_loss(tmp_path):
    setup = make_setup(random_bert(tmp_path / "tiny", SIZES), write_lists(tmp_path))
    numbers = batch_numbers(12, 6)
    (again,) = OurSide(setup, activations=0).step(numbers)
    (once,) = OurSide(setup, activations=PLENTY).step(numbers)
    assert once.loss == pytest.approx(again.loss, rel=1e-6)
