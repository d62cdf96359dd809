"""The benchmark of the query step: both sides compute the same, and a difference ends it."""

import numpy as np
import pytest

from tests.benchmarks import query_step

QUERIES = ["heart disease", "a claim about cells", "random samples of a normal distribution"]


@pytest.mark.slow
def test_sides_compute_the_same_and_are_timed():
    speed, *_ = query_step.run_case(QUERIES, list_size=5, repeats=1)
    assert speed["gradient_difference"] < query_step.GRADIENT_TOLERANCE
    assert speed["ours"] > 0


class Side:
    """Stands in for a worker."""

    def __init__(self, loss, gradient):
        self._values = {"step": loss, "gradients": {"w": np.array(gradient)}}

    def call(self, name):
        return self._values[name]


def test_a_difference_ends_it():
    equal = query_step.check_equal(Side(1.0, [3.0, 4.0]), Side(1.0, [3.0, 4.0]))
    assert equal == {"loss_difference": 0.0, "gradient_difference": 0.0}
    nan = float("nan")
    for other in (
        Side(1.001, [3.0, 4.0]),
        Side(1.0, [3.0, 4.01]),
        Side(nan, [3.0, 4.0]),
        Side(1.0, [3.0, nan]),
    ):
        with pytest.raises(SystemExit, match="different things"):
            query_step.check_equal(other, Side(1.0, [3.0, 4.0]))
