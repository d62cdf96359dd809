"""The schedule and the numbers behind "auto", by the recipe's formulas."""

import jax
import numpy as np
import pytest

from ldx.step.optim import (
    OptimConfig,
    auto_batch_size,
    auto_learning_rate,
    auto_warmup_steps,
    make_optimizer,
    make_schedule,
)


@pytest.mark.parametrize(
    ("num_lists", "expected"),
    [(1, 32), (256, 32), (257, 64), (4000, 512), (32_768, 4096), (10**6, 4096)],
)
def test_auto_batch_size(num_lists, expected):
    assert auto_batch_size(num_lists) == expected


def test_auto_learning_rate_is_the_recipe_at_its_batch_size():
    assert auto_learning_rate(4096) == pytest.approx(2e-4)
    assert auto_learning_rate(1024) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("steps_per_epoch", "num_steps", "expected"), [(8, 240, 10), (100, 3000, 50), (8, 16, 3)]
)
def test_auto_warmup_steps(steps_per_epoch, num_steps, expected):
    assert auto_warmup_steps(steps_per_epoch, num_steps) == expected


def test_schedule_equals_formula():
    config = OptimConfig(learning_rate=2e-4, warmup_steps=10)
    schedule = make_schedule(config, 100)
    for step in (0, 1, 9, 10, 11, 55, 90, 95, 99, 100, 120):
        factor = step / 10 if step < 10 else max(0.1, 1 - (step - 10) / 90)
        np.testing.assert_allclose(schedule(step), 2e-4 * factor, rtol=1e-6)


def test_a_constant_schedule_warms_up_too():
    config = OptimConfig(learning_rate=1e-3, warmup_steps=4, schedule="constant")
    rates = [float(make_schedule(config, 100)(step)) for step in (0, 2, 4, 50, 99)]
    np.testing.assert_allclose(rates, [0, 5e-4, 1e-3, 1e-3, 1e-3], rtol=1e-6)


def test_adamw_equals_torch():
    """Clipped to norm 1, then AdamW with decay on everything, against torch's."""
    import jax.numpy as jnp
    import optax
    import torch

    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 3)).astype(np.float32)
    gradients = rng.normal(size=(5, 7, 3)).astype(np.float32)
    config = OptimConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant")
    optimizer = make_optimizer(config, 5)
    params = {"w": jnp.asarray(start)}
    state = optimizer.init(params)
    theirs = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.01)
    for gradient in gradients:
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        theirs.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
    np.testing.assert_allclose(params["w"], theirs.detach().numpy(), atol=1e-6)


def test_without_a_norm_nothing_is_clipped():
    gradient = {"w": np.array([30.0, 40.0], np.float32)}
    first = {}
    for clip_norm in (None, 1e6, 1.0):
        config = OptimConfig(1.0, 0, weight_decay=0.0, eps=1.0, clip_norm=clip_norm)
        optimizer = make_optimizer(config, 10)
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        first[clip_norm] = np.asarray(updates["w"])
    np.testing.assert_array_equal(first[None], first[1e6])
    assert np.abs(first[None]).min() > 2 * np.abs(first[1.0]).min()


def test_the_rate_of_a_number_is_that_of_the_step():
    """Which is logged from the host, where nothing is compiled for it."""
    schedule = make_schedule(OptimConfig(learning_rate=3e-4, warmup_steps=7), 40)
    for step in range(45):
        rate = schedule(step)
        assert isinstance(rate, np.floating)
        assert rate == pytest.approx(float(schedule(jax.numpy.int32(step))), rel=1e-6)
