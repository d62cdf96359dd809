"""A step of the query tower alone: passages enter by their stored embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldx.common.errors import UserError
from ldx.data.lists import take_lists
from ldx.losses import LOSSES, common
from ldx.models.pooling import normalize
from ldx.models.tokenizer import pad_tokens
from ldx.models.towers import PASSAGE_MAP, Towers
from ldx.parallel.embedder import Embedder
from ldx.parallel.mesh import make_mesh
from ldx.step.objective import make_objective
from ldx.step.optim import OptimConfig, make_optimizer, with_passage_map
from ldx.step.train_step import TrainStep
from tests.step.step_problems import (
    CONFIG,
    DIM,
    PLENTY,
    Problem,
    Special,
    check_nothing_is_compiled,
    embed,
    make_plan,
    make_planner,
    make_step,
)

RATE = 2.0**12
EVERY_LOSS = {name: {"weight": 1.0} for name in LOSSES}
CASES = {
    **{name: {name: settings} for name, settings in EVERY_LOSS.items()},
    "listwise_kl + info_nce": CONFIG,
    "info_nce in blocks": {"info_nce": {"weight": 1.0, "block_size": 7, "temperature": 0.1}},
    "published wasserstein": {"wasserstein": {"weight": 1.0, "form": "batch", "temperature": 0.2}},
    "matryoshka": {"listwise_kl": {"weight": 1.0}, "matryoshka": {"dims": (DIM, 3)}},
}


def make_problem():
    """Ragged lists with grades of people, repeated queries and repeated passages."""
    return Problem.make(3, num_lists=7, num_passages=24, list_size=6, labels=True)


def embed_all(params, ids, limit):
    cut = [x[: limit - 2] for x in ids]
    return embed(params, *pad_tokens(
        cut, Special(), max_length=limit, padded_length=20, num_rows=len(cut)
    ))  # fmt: skip


def stored_embeddings(params, problem):
    return np.asarray(embed_all(params, problem.passages, 20), np.float32)


def expected_gradient(config, params, problem):
    """The loss and its gradient by autodiff, with passages under stop_gradient."""
    objective, table = make_objective(config), problem.table()
    size = make_planner(problem).size
    lists, rows = take_lists(table, np.arange(len(problem.records)), size)

    def loss(params):
        queries = embed_all(params, problem.queries, 16)[table.query]
        queries = jnp.zeros((size.num_queries, DIM)).at[: len(queries)].set(queries)
        distinct = jax.lax.stop_gradient(embed_all(params, problem.passages, 20))[rows]
        # Stored embeddings are float32, whatever the parameters are.
        distinct = distinct.astype(jnp.float32).astype(queries.dtype)
        passages = jnp.zeros((size.num_passages, DIM)).at[: len(rows)].set(distinct)
        return objective(queries, passages, lists)[0]

    return jax.jit(jax.value_and_grad(loss))(params)


def one_step(config, params, problem, num_devices=1, fsdp=1, activation_bytes=PLENTY):
    """The loss of the query step, and its gradient, from the difference that SGD makes.

    The rate is high, so that rounding of the parameters does not hide the gradient.
    """
    planner = make_planner(problem, num_devices, stored=stored_embeddings(params, problem))
    step = TrainStep(
        Embedder(embed, make_mesh(num_devices, fsdp=fsdp)),
        make_objective(config),
        optax.sgd(RATE),
        buffer_rows=planner.buffer_rows,
        activation_bytes=activation_bytes,
    )
    plan = make_plan(problem, planner)
    # Queries of equal texts are embedded once, and no passage is.
    distinct = {int(record.query) for record in problem.records}
    assert plan.num_tokens == sum(min(len(problem.queries[i]) + 2, 16) for i in distinct)
    state, result = step(step.init(params), plan)
    gradient = jax.tree.map(lambda a, b: (a - np.asarray(b)) / RATE, params, state.params)
    return result.metrics()["total"], gradient


def check_gradient(config, num_devices, fsdp):
    """Equal to within 1e-6 of the gradient's norm, in float32."""
    problem = make_problem()
    params = problem.params_as(np.float32)
    value, gradient = expected_gradient(config, params, problem)
    ours, our_gradient = one_step(config, params, problem, num_devices, fsdp)
    norm = float(optax.tree.norm(gradient))
    assert norm > 1e-3
    np.testing.assert_allclose(ours, value, rtol=1e-6, atol=1e-6)
    for name, expected in gradient.items():
        np.testing.assert_allclose(our_gradient[name], expected, atol=1e-6 * max(1.0, norm))


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_both_towers_with_passages_under_stop_gradient(case):
    check_gradient(CASES[case], 1, 1)


@pytest.mark.parametrize(("num_devices", "fsdp"), [(2, 1), (8, 2)])
@pytest.mark.parametrize("case", [EVERY_LOSS, CASES["info_nce in blocks"]], ids=["sum", "blocks"])
def test_on_several_devices(case, num_devices, fsdp):
    """The sum of all losses; each of them is compared on several devices in float64."""
    check_gradient(case, num_devices, fsdp)


@pytest.mark.parametrize("case", CASES)
def test_in_float64_nothing_but_rounding_is_left(case):
    problem = make_problem()
    with jax.enable_x64(True):
        params = problem.params_as(np.float64)
        value, gradient = expected_gradient(CASES[case], params, problem)
        ours, our_gradient = one_step(CASES[case], params, problem, num_devices=8, fsdp=2)
        np.testing.assert_allclose(ours, value, rtol=1e-12, atol=1e-12)
        for name, expected in gradient.items():
            np.testing.assert_allclose(our_gradient[name], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("activation_bytes", [0, 6_000])
def test_whatever_is_kept_of_the_forward_pass(activation_bytes):
    problem = make_problem()
    params = problem.params_as(np.float32)
    _, gradient = expected_gradient(CONFIG, params, problem)
    _, ours = one_step(CONFIG, params, problem, activation_bytes=activation_bytes)
    for name, value in gradient.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-6)


@pytest.mark.parametrize(("num_devices", "fsdp"), [(1, 1), (8, 2)])
def test_a_passage_map_learns_beside_the_queries(num_devices, fsdp):
    """Its gradient is that of autodiff, whole, and split over devices like other parameters."""
    problem, rng = make_problem(), np.random.default_rng(5)
    own = problem.params_as(np.float32)
    kernel = (0.1 * rng.normal(size=(DIM, DIM))).astype(np.float32)
    params = {**own, PASSAGE_MAP: {"kernel": kernel}}
    stored = stored_embeddings(own, problem)
    planner = make_planner(problem, num_devices, stored=stored)
    objective, plan = make_objective(CONFIG), make_plan(problem, planner)

    def loss(params):
        queries = embed_all(params, problem.queries, 16)[problem.table().query]
        queries = jnp.zeros((8, DIM)).at[: len(queries)].set(queries)
        mapped = normalize(plan.passages + plan.passages @ params[PASSAGE_MAP]["kernel"])
        return objective(queries, mapped, plan.lists)[0]

    gradient = jax.jit(jax.grad(loss))(params)
    assert float(jnp.abs(gradient[PASSAGE_MAP]["kernel"]).max()) > 1e-2
    step = TrainStep(
        Embedder(embed, make_mesh(num_devices, fsdp=fsdp)), objective, optax.sgd(RATE),
        buffer_rows=planner.buffer_rows, activation_bytes=PLENTY,
    )  # fmt: skip
    state = step.init(params)
    step.compile(state, planner.shapes, planner.size)
    state, result = step(state, plan)
    result.metrics()
    ours = jax.tree.map(lambda a, b: (a - np.asarray(b)) / RATE, params, state.params)
    for expected, value in zip(*map(jax.tree.leaves, (gradient, ours)), strict=True):
        np.testing.assert_allclose(value, expected, atol=3e-6)
    towers = Towers(own, own, kernel + np.eye(DIM, dtype=np.float32))
    expected = objective.map_passages(jnp.asarray(stored), jnp.asarray(kernel))
    np.testing.assert_allclose(towers.map_passages(stored, unit_norm=True), expected, atol=1e-6)


def test_the_map_has_an_optimiser_of_its_own():
    """No weight decay, its own rate, and a gradient norm that is not joined to the student's."""
    config = OptimConfig(0.0, 0, weight_decay=0.5, passage_map_learning_rate=0.1)
    optimizer = with_passage_map(make_optimizer(config, 4), config, 4)
    params = {"w": np.ones(3, np.float32), PASSAGE_MAP: {"kernel": np.ones((2, 2), np.float32)}}
    updates, _ = optimizer.update(
        jax.tree.map(np.ones_like, params), optimizer.init(params), params
    )
    np.testing.assert_allclose(updates["w"], 0)
    np.testing.assert_allclose(updates[PASSAGE_MAP]["kernel"], -0.1, rtol=1e-4)


def test_stored_embeddings_of_a_passage_count_and_not_its_tokens():
    """Embeddings that no model made are used as they are."""
    problem = make_problem()
    params = problem.params_as(np.float32)
    stored = np.random.default_rng(0).normal(size=(24, DIM)).astype(np.float32)
    planner = make_planner(problem, stored=stored)
    plan = make_plan(problem, planner)
    rows = np.unique(np.concatenate([record.rows for record in problem.records]))
    np.testing.assert_array_equal(plan.passages[: len(rows)], stored[rows])
    assert not plan.passages[len(rows) :].any()
    step = make_step(planner, 1, optax.sgd(1.0))
    step(step.init(params), plan)[1].metrics()


def test_stored_embeddings_that_are_not_finite_name_their_lists():
    problem = make_problem()
    stored = np.ones((24, DIM), np.float32)
    row = int(problem.records[2].rows[0])
    stored[row] = np.nan
    planner = make_planner(problem, stored=stored)
    step = make_step(planner, 1, optax.sgd(1.0))
    _, result = step(step.init(problem.params_as(np.float32)), make_plan(problem, planner))
    with pytest.raises(UserError, match="not finite") as error:
        result.metrics()
    for record in problem.records:
        assert (record.list_id in str(error.value)) == (row in record.rows)


def test_nothing_is_compiled_after_the_start():
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    planner = make_planner(problem, 2, stored=np.ones((24, DIM), np.float32))
    step = make_step(planner, 2, optax.adamw(1e-3), activation_bytes=6_000)
    check_nothing_is_compiled(step, planner, problem, 10)


@pytest.mark.parametrize(("list_size", "num_passages"), [(3, 70), (40, 50), (7, 200)])
@pytest.mark.parametrize("max_gathered", [64, 1_000, 10**9])
def test_scores_of_lists_are_the_same_in_blocks(monkeypatch, list_size, num_passages, max_gathered):
    """Values and gradients equal those of one product with what was gathered."""
    rng = np.random.default_rng(list_size)
    queries = rng.normal(size=(13, DIM)).astype(np.float32)
    passages = rng.normal(size=(num_passages, DIM)).astype(np.float32)
    index = rng.integers(0, num_passages, size=(13, list_size)).astype(np.int32)
    where = rng.uniform(size=index.shape) < 0.7
    where[4] = False
    passages[~np.isin(np.arange(num_passages), index[where])] = np.nan  # padding reaches nothing
    monkeypatch.setattr(common, "MAX_GATHERED", max_gathered)

    def total(queries, passages):
        scores = common.list_scores(queries, passages, index, where)
        return (scores**2).sum(), scores

    def plain(queries, passages):
        gathered = jnp.where(where[..., None], passages[index], 0)
        scores = jnp.einsum("qd,qld->ql", queries, gathered)
        return (scores**2).sum(), scores

    (_, ours), gradient = jax.value_and_grad(total, (0, 1), has_aux=True)(queries, passages)
    (_, theirs), expected = jax.value_and_grad(plain, (0, 1), has_aux=True)(queries, passages)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_memory_does_not_grow_as_queries_times_entries_times_dimensions():
    """Q L D numbers would be 6.6 GB here; the program takes a fraction of that."""
    q, p, size, dim = 1024, 32_768, 1_000, 1_600
    kinds = [((q, dim), "f4"), ((p, dim), "f4"), ((q, size), "i4"), ((q, size), "?")]
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in kinds]

    def loss(queries, passages, index, where):
        return common.list_scores(queries, passages, index, where).sum()

    for arguments in (0, (0, 1)):
        program = jax.jit(jax.grad(loss, arguments)).lower(*shapes).compile()
        assert program.memory_analysis().temp_size_in_bytes < 2**31
