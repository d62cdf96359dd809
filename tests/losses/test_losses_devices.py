"""Every loss through the step on eight devices gives what it gives on one, gradients included."""

import jax
import numpy as np
import optax
import pytest

from ldx.losses import LOSSES
from ldx.parallel.embedder import Embedder
from ldx.parallel.mesh import make_mesh
from ldx.step.objective import make_objective
from ldx.step.train_step import TrainStep
from tests.step.step_problems import DIM, Problem, embed, make_planner

LISTS = [name for name in LOSSES if name not in ("info_nce", "wasserstein")]
CASES = {
    "losses of lists": {name: {} for name in LISTS},
    "wasserstein": {"wasserstein": {"temperature": 0.2}},
    "published wasserstein": {"wasserstein": {"form": "batch", "temperature": 0.2}},
    "info_nce in blocks": {"info_nce": {"block_size": 7, "temperature": 0.1}},
    "matryoshka": {"listwise_kl": {}, "matryoshka": {"dims": (DIM, 3)}},
}


def one_step(case, num_devices):
    """The loss of a batch of ragged lists, some of one entry, and the parameters' change."""
    problem = Problem.make(3, num_lists=7, num_passages=24, list_size=6, labels=True)
    planner = make_planner(problem, num_devices)
    config = {
        name: section if name == "matryoshka" else section | {"weight": 1.0}
        for name, section in CASES[case].items()
    }
    step = TrainStep(
        Embedder(embed, make_mesh(num_devices)),
        make_objective(config),
        optax.sgd(1.0),
        buffer_rows=planner.buffer_rows,
    )
    params = problem.params_as(np.float32)
    plan = planner(problem.table(), np.arange(7))
    state, result = step(step.init(params), plan)
    change = jax.tree.map(lambda after, before: np.asarray(after) - before, state.params, params)
    return result.metrics(), change


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_give_what_one_gives(case):
    (expected, alone), (values, change) = one_step(case, 1), one_step(case, 8)
    assert expected["gradient_norm"] > 1e-3
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4)
    for name, value in alone.items():
        np.testing.assert_allclose(change[name], value, atol=1e-5 * expected["gradient_norm"])
