"""One step: equal to the plain way, whatever the batch, and what stops it."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from ldx.common.errors import UserError
from ldx.data.lists import take_lists
from ldx.models.tokenizer import pad_tokens
from ldx.parallel.embedder import Embedder
from ldx.parallel.mesh import make_mesh
from ldx.step.objective import make_objective
from ldx.step.train_step import TrainStep
from tests.step.step_problems import (
    CONFIG,
    PLENTY,
    Problem,
    Special,
    embed,
    make_plan,
    make_planner,
    make_step,
)


@functools.lru_cache
def sgd_step(buffer_rows, num_devices, *, fsdp=1, activation_bytes=0):
    embedder = Embedder(embed, make_mesh(num_devices, fsdp=fsdp))
    return TrainStep(
        embedder,
        make_objective(CONFIG),
        optax.sgd(1.0),
        buffer_rows=buffer_rows,
        activation_bytes=activation_bytes,
    )


def plain_arrays(problem, num_lists=8, list_size=6):
    """Every slot of every list as a text of its own, padded; and what a query's negatives are.

    Written list by list, so that it shares nothing with what is tested.
    """

    def tokens(ids, limit):
        text = [1, *ids[: limit - 2], 2]
        return text + [0] * (20 - len(text))

    shape = (num_lists, list_size)
    queries = np.tile(np.array(tokens([], 20), np.int32), (num_lists, 1))
    slots = np.tile(np.array(tokens([], 20), np.int32), (*shape, 1))
    teacher, is_slot = np.zeros(shape, np.float32), np.zeros(shape, bool)
    negative, has_positive = np.zeros((num_lists, *shape), bool), np.zeros(num_lists, bool)
    for i, record in enumerate(problem.records):
        queries[i] = tokens(problem.queries[int(record.query)], 16)
        for j, row in enumerate(record.rows):
            slots[i, j] = tokens(problem.passages[row], 20)
        teacher[i, : len(record.rows)] = record.teacher_scores
        is_slot[i, : len(record.rows)] = True
        has_positive[i] = record.labels[0] != 0  # judged, and not relevant
        relevant = record.teacher_scores > np.float32(0.6) * record.teacher_scores[0]
        dropped = {record.rows[0], *record.rows[relevant | (record.labels > 0)]}
        for k, other in enumerate(problem.records):
            for j, row in enumerate(other.rows):
                negative[i, k, j] = row not in dropped
    return queries, slots, teacher, is_slot, negative, has_positive


@jax.jit
@jax.value_and_grad
def plain_loss_and_gradient(params, queries, slots, teacher, is_slot, negative, has_positive):
    """Every slot embedded on its own, in one micro-batch, and the losses over slots."""
    q = embed(params, queries, queries != 0)
    p = embed(params, slots.reshape(-1, 20), slots.reshape(-1, 20) != 0)
    p = p.reshape(*slots.shape[:2], -1)
    teacher = jax.nn.log_softmax(jnp.where(is_slot, teacher.astype(q.dtype) / 0.3, -1e9), axis=1)
    student = jnp.einsum("qd,qld->ql", q, p) / 0.1
    student = jax.nn.log_softmax(jnp.where(is_slot, student, -1e9), axis=1)
    kl = jnp.sum(jnp.where(is_slot, jnp.exp(teacher) * (teacher - student), 0), axis=1)
    logits = jnp.einsum("qd,kld->qkl", q, p) / 0.1
    own = jnp.einsum("qd,qd->q", q, p[:, 0]) / 0.1
    others = jnp.where(negative, logits, -1e9).reshape(len(q), -1)
    together = jnp.concatenate([own[:, None], others], axis=1)
    contrastive = jax.nn.logsumexp(together, axis=1) - own
    contrastive = jnp.sum(contrastive, where=has_positive) / jnp.maximum(has_positive.sum(), 1)
    return jnp.mean(kl, where=is_slot[:, 0]) + 0.5 * contrastive


def check_equals_plain(problem, dtype, tolerance, **settings):
    """SGD with rate 1 turns the step's gradient into a difference of parameters."""
    num_devices = settings.pop("num_devices", 1)
    params, planner = problem.params_as(dtype), make_planner(problem, num_devices)
    step = sgd_step(planner.buffer_rows, num_devices, **settings)
    state, result = step(step.init(params), make_plan(problem, planner))
    metrics = result.metrics()
    loss, gradient = plain_loss_and_gradient(params, *plain_arrays(problem))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient.values()))
    np.testing.assert_allclose(metrics["total"], loss, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=tolerance, atol=tolerance)
    ours = {name: value - np.asarray(state.params[name]) for name, value in params.items()}
    difference = np.sqrt(sum(np.sum(np.square(ours[n] - gradient[n])) for n in ours))
    assert difference <= tolerance * max(norm, 1.0)
    assert state.step == 1


@pytest.mark.parametrize("activation_bytes", [0, 10_000, PLENTY], ids=["none", "some", "all"])
@pytest.mark.parametrize(("num_devices", "fsdp"), [(1, 1), (8, 1), (8, 2)])
def test_equals_the_plain_way(num_devices, fsdp, activation_bytes):
    """Whatever is kept of the first pass, on any devices, however the state is split."""
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    settings = {"num_devices": num_devices, "fsdp": fsdp, "activation_bytes": activation_bytes}
    check_equals_plain(problem, np.float32, 2e-5, **settings)


drawn_problems = st.builds(
    Problem.make,
    st.integers(0, 2**32 - 1),
    num_lists=st.integers(1, 8),
    num_passages=st.integers(1, 20),  # few: duplicates in a list, positives that are negatives
    list_size=st.integers(1, 6),
    ties=st.booleans(),
    labels=st.booleans(),
)


@hypothesis.settings(max_examples=25)
@hypothesis.given(drawn_problems, st.sampled_from([0, 6_000, PLENTY]))
def test_any_batch_equals_the_plain_way_in_float64(problem, activation_bytes):
    with jax.enable_x64(True):
        check_equals_plain(problem, np.float64, 1e-9, activation_bytes=activation_bytes)


@hypothesis.settings(max_examples=10)
@hypothesis.given(drawn_problems)
def test_any_batch_equals_the_plain_way_in_float32(problem):
    check_equals_plain(problem, np.float32, 1e-4)


def test_a_real_bert_in_float64(tiny_bert):
    """The gradient of BERT through micro-batches of several lengths equals that of one program.

    What the backward pass needs is kept of some micro-batches, and computed again of the others.
    """
    from ldx.models.student import load_student

    student = load_student(tiny_bert, query_max_length=16, passage_max_length=20)
    problem = Problem.make(4, num_lists=8, num_passages=12)
    planner = make_planner(problem)
    plan = make_plan(problem, planner)
    objective = make_objective(CONFIG)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: np.asarray(p, np.float64), student.params)
        step = TrainStep(
            Embedder(student.embed, make_mesh(1)),
            objective,
            optax.sgd(1.0),
            buffer_rows=planner.buffer_rows,
            activation_bytes=600_000,
        )
        state, result = step(step.init(params), plan)
        needed = [step._bytes(params, batch.shape) for batch in plan.token_batches]
        assert needed[0] <= 600_000 < sum(needed)

        def loss(params):
            texts = [*problem.queries, *problem.passages]
            token_ids, mask = pad_tokens(
                [ids[:14] if i < 8 else ids[:18] for i, ids in enumerate(texts)],
                Special(), max_length=20, padded_length=20, num_rows=len(texts),
            )  # fmt: skip
            embeddings = student.embed(params, token_ids, mask)
            table = problem.table()
            lists, rows = take_lists(table, np.arange(8), planner.size)
            passages = jnp.zeros((30, 32)).at[: len(rows)].set(embeddings[8 + rows])
            return objective(embeddings[table.query], passages, lists)[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        ours = jax.tree.map(lambda before, after: before - np.asarray(after), params, state.params)
        norm = float(optax.tree.norm(gradient))
        assert abs(result.metrics()["total"] - value) < 1e-9
        differences = jax.tree.map(lambda a, b: a - b, ours, gradient)
        assert float(optax.tree.norm(differences)) < 1e-9 * norm


def test_a_stop_leaves_the_state_as_it_was():
    problem = Problem.make()
    planner = make_planner(problem)
    step = make_step(planner, 1, optax.sgd(1.0))
    state = step.init(problem.params_as(np.float32))
    plan = make_plan(problem, planner)
    calls = []

    def stop_late():
        calls.append(1)
        if len(calls) == 2 * len(plan.token_batches):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(state, plan, stop_late)
    np.testing.assert_array_equal(state.params["w"], problem.params_as(np.float32)["w"])
    again, _ = step(state, plan)
    assert again.step == 1


def test_a_loss_that_is_not_finite_names_its_lists_and_changes_nothing():
    problem = Problem.make()
    broken = int(problem.queries[3][0])
    params = problem.params_as(np.float32)
    params["table"][broken] = np.nan
    planner = make_planner(problem)
    step = make_step(planner, 1, optax.adam(1.0))
    state, result = step(step.init(params), make_plan(problem, planner))
    with pytest.raises(UserError, match="not finite") as error:
        result.metrics()
    for record in problem.records:
        texts = [problem.queries[int(record.query)][:14]]
        texts += [problem.passages[row][:18] for row in record.rows]
        is_bad = any(broken in text for text in texts)
        assert (record.list_id in str(error.value)) == is_bad
    np.testing.assert_array_equal(state.params["w"], params["w"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.opt_state))
