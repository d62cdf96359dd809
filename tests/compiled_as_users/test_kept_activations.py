"""Kept activations save a forward pass and change nothing."""

import pytest

pytest.importorskip("torch")

from tests.benchmarks.step_cases import batch_numbers
from tests.benchmarks.step_folders import random_bert
from tests.benchmarks.step_ours import OurSide
from tests.benchmarks.step_toy import PLENTY, SIZES, make_setup, write_lists


def test_kept_activations_save_a_forward_pass(tmp_path):
    setup = make_setup(random_bert(tmp_path / "tiny", SIZES), write_lists(tmp_path))
    numbers = batch_numbers(12, 6)
    (again,) = OurSide(setup, activations=0).step(numbers)
    (once,) = OurSide(setup, activations=PLENTY).step(numbers)
    assert (again.notes["kept_microbatches"], once.notes["kept_microbatches"]) == (0, 1)
    assert once.flops == pytest.approx(0.75 * again.flops)
    assert once.loss == pytest.approx(again.loss, rel=1e-6)
