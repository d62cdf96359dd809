"""One step on many devices: equal numbers, a state that is split, few collectives, no compiling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldx.training.checkpoint import Checkpoints, Progress
from tests.step.step_problems import (
    PLENTY,
    Problem,
    check_nothing_is_compiled,
    make_plan,
    make_planner,
    make_step,
)


def train_steps(num_devices, fsdp, optimizer, num_steps=5):
    """Losses of five steps, the state after them, and the embeddings of the last batch's texts."""
    problem = Problem.make(3, num_lists=8, num_passages=24, list_size=6)
    planner = make_planner(problem, num_devices)
    step = make_step(planner, num_devices, optimizer, fsdp=fsdp, activation_bytes=20_000)
    state, plan, losses = step.init(problem.params_as(np.float32)), None, []
    for number in range(num_steps):
        lists = np.random.default_rng(number).permutation(len(problem.records))[:6]
        plan = planner(problem.table(), lists)
        state, result = step(state, plan)
        losses.append(result.metrics()["total"])
    assert plan is not None
    texts = np.concatenate([plan.query_position[:6], plan.passages])
    return losses, state, np.asarray(result.embeddings)[texts]


@pytest.fixture(scope="module")
def on_one_device():
    return train_steps(1, 1, optax.sgd(0.1))


@pytest.mark.parametrize(("num_devices", "fsdp"), [(2, 1), (4, 1), (8, 1), (2, 2), (8, 4)])
def test_devices_do_not_change_the_result(on_one_device, num_devices, fsdp):
    expected, alone, embeddings = on_one_device
    losses, state, theirs = train_steps(num_devices, fsdp, optax.sgd(0.1))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(theirs, embeddings, atol=1e-5)
    for name, value in alone.params.items():
        np.testing.assert_allclose(state.params[name], value, atol=1e-5)


def bytes_per_device(tree):
    used = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            used[shard.device] = used.get(shard.device, 0) + shard.data.nbytes
    return used


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_fsdp_splits_the_state(fsdp):
    _, state, _ = train_steps(4, fsdp, optax.adamw(1e-3), num_steps=2)
    arrays = state.params, state.opt_state
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    used = bytes_per_device(arrays)
    assert len(used) == 4
    for num_bytes in used.values():
        assert num_bytes < whole / fsdp + 100  # Adam's step counts are whole everywhere


def test_a_checkpoint_is_restored_on_another_number_of_devices(tmp_path):
    _, state, _ = train_steps(8, 4, optax.adamw(1e-3), num_steps=2)
    progress = Progress(step=2, evaluated_step=2)
    Checkpoints(tmp_path).save(state, progress)
    problem = Problem.make(3)
    for num_devices, fsdp in ((2, 2), (1, 1)):
        planner = make_planner(problem, num_devices)
        step = make_step(planner, num_devices, optax.adamw(1e-3), fsdp=fsdp)
        like = step.init(problem.params_as(np.float32))
        restored = Checkpoints(tmp_path).restore(like, progress)
        for theirs, ours in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
            np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours))
        assert len(bytes_per_device(restored.params)) == num_devices
        again, result = step(restored, make_plan(problem, planner))
        assert again.step == 3
        assert np.isfinite(result.metrics()["total"])


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(lowered):
    """How often each kind of collective stands in the compiled program."""
    text = lowered.compile().as_text()
    return {name: found for name in COLLECTIVES if (found := text.count(f" {name}("))}


@pytest.mark.parametrize("fsdp", [1, 2])
def test_gradients_cross_devices_once_a_step(fsdp):
    """The programs that run for every micro-batch have no collective; the update has all."""
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    planner = make_planner(problem, 8)
    step = make_step(planner, 8, optax.adamw(1e-3), fsdp=fsdp, activation_bytes=PLENTY)
    state, plan = step.init(problem.params_as(np.float32)), make_plan(problem, planner)
    with jax.set_mesh(step._mesh):
        params, (buffer, gradients) = step._gather_params(state), step._zeros(state.params)
        tokens = step._put_tokens(plan.token_batches[0])
        start = step._put_start(plan.token_batches[0])
        embeddings, kept = step._embed_and_keep(params, *tokens)
        assert not collectives(step._embedder._forward.lower(params, *tokens))
        assert not collectives(step._embed_and_keep.lower(params, *tokens))
        assert not collectives(step._place.lower(buffer, embeddings, start))
        backprop = step._backprop.lower(params, gradients, buffer, *tokens, start)
        assert not collectives(backprop)
        again = step._backprop_kept.lower(params, gradients, buffer, kept, start)
        assert not collectives(again)
        losses = {"total": jnp.zeros(())}
        update = collectives(step._update.lower(state, gradients, None, losses))
    num_params = len(problem.params)
    if fsdp == 1:
        assert set(update) == {"all-reduce"}
        assert 1 <= update["all-reduce"] <= num_params
    else:
        assert update["reduce-scatter"] <= num_params
        assert "all-gather" not in update


def test_nothing_is_compiled_after_the_start():
    """Whatever the batches hold: lists of any length, any number of them, few or many texts."""
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    planner = make_planner(problem, 2)
    step = make_step(planner, 2, optax.adamw(1e-3), activation_bytes=6_000)
    check_nothing_is_compiled(step, planner, problem, 20)
