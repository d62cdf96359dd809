"""listwise_kl and info_nce equal the reference's numbers and formulas."""

import doctest
import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldx.losses
from ldx.losses import info_nce, list_scores, listwise_kl
from tests.losses.loss_batches import make_batch


def info_nce_by_slots(batch, temperature, ratio, labels=None):
    """InfoNCE over slots, by the words of the definition; one loss a query with a positive."""
    q, p = batch["query_embeddings"].astype(np.float64), batch["passage_embeddings"]
    index, where, scores = batch["list_index"], batch["where"], batch["teacher_scores"]
    slots = [index[j, k] for j in range(len(q)) for k in range(index.shape[1]) if where[j, k]]
    losses = []
    for i in range(len(q)):
        if not where[i, 0] or (labels is not None and labels[i, 0] == 0):
            losses.append(0.0)
            continue
        positive = index[i, 0]
        false_negatives = {
            index[i, k]
            for k in range(index.shape[1])
            if where[i, k]
            and (
                (ratio is not None and scores[i, k] > ratio * scores[i, 0])
                or (labels is not None and labels[i, k] > 0)
            )
        }
        kept = [s for s in slots if s != positive and s not in false_negatives]
        logits = np.array([q[i] @ p[s] / temperature for s in [positive, *kept]])
        top = logits.max()
        losses.append(top + np.log(np.exp(logits - top).sum()) - logits[0])
    return np.array(losses)


def kl_by_formula(student, teacher, student_temperature, teacher_temperature):
    p = np.exp(teacher / teacher_temperature)
    q = np.exp(student / student_temperature)
    p, q = p / p.sum(), q / q.sum()
    return np.sum(p * np.log(p / q))


# ---- reference numbers


@pytest.mark.golden
@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_golden_cadet(golden_dir, dtype, block_size, request):
    """Values and gradients of CADET's own code, in the distinct form of the batch."""
    if dtype is np.float64:
        request.getfixturevalue("x64")
    files = sorted(golden_dir.glob("cadet_*.npz"))
    assert files
    for file in files:
        _check_golden(np.load(file), dtype, 1e-6 if dtype is np.float64 else 1e-3, block_size)


def _check_golden(golden, dtype, tolerance, block_size):
    ids, index = np.unique(golden["doc_ids"], return_inverse=True)
    index = index.reshape(golden["doc_ids"].shape)
    query = golden["query"].astype(dtype)
    passages = np.zeros((len(ids), query.shape[1]), dtype)
    passages[index] = golden["passage"]
    teacher = jnp.asarray(golden["teacher_scores"].astype(dtype))

    def contrastive(q, p):
        return info_nce(
            q, p, index, teacher,
            temperature=float(golden["temperature"]),
            false_negative_ratio=float(golden["false_negative_ratio"]),
            block_size=block_size,
        )  # fmt: skip

    def listwise(q, p):
        return listwise_kl(
            list_scores(q, p, index), teacher,
            student_temperature=float(golden["student_temperature"]),
            teacher_temperature=float(golden["teacher_temperature"]),
        )  # fmt: skip

    for name, loss in (("contrastive", contrastive), ("listwise", listwise)):
        value, (grad_query, grad_passage) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
            jnp.asarray(query), jnp.asarray(passages)
        )
        np.testing.assert_allclose(value, golden[f"{name}_loss"], rtol=tolerance)
        by_row = np.zeros_like(passages, dtype=np.float64)
        np.add.at(by_row, index, golden[f"{name}_grad_passage"])
        for ours, reference in ((grad_query, golden[f"{name}_grad_query"]), (grad_passage, by_row)):
            largest = np.abs(reference).max()
            np.testing.assert_allclose(ours, reference, rtol=0, atol=tolerance * largest)


# ---- formulas


@pytest.mark.parametrize("temperatures", [(0.05, 0.3), (1.0, 1.0)])
def test_kl_equals_formula(temperatures):
    rng = np.random.default_rng(0)
    student, teacher = rng.uniform(size=(2, 7, 5)).astype(np.float32)
    where = rng.uniform(size=(7, 5)) < 0.7
    where[3] = False
    names = {"student_temperature": temperatures[0], "teacher_temperature": temperatures[1]}
    loss = functools.partial(listwise_kl, where=where, **names)
    losses = jax.jit(functools.partial(loss, reduce_fn=None))(student, teacher)
    for i in range(7):
        kept = where[i]
        pair = student[i, kept], teacher[i, kept]
        expected = kl_by_formula(*pair, *temperatures) if kept.any() else 0
        np.testing.assert_allclose(losses[i], expected, rtol=2e-5, atol=1e-6)
    mean = jax.jit(loss)(student, teacher)
    np.testing.assert_allclose(mean, np.delete(losses, 3).mean(), rtol=1e-6)


def test_kl_is_zero_for_equal_distributions():
    scores = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    each = functools.partial(
        listwise_kl, student_temperature=0.05, teacher_temperature=0.3, reduce_fn=None
    )
    np.testing.assert_allclose(jax.jit(each)(scores * 0.05, scores * 0.3), 0, atol=1e-6)


@functools.cache
def compiled_info_nce(**settings):
    """One program for all batches of one shape."""
    return jax.jit(functools.partial(info_nce, **settings))


@pytest.mark.parametrize("ratio", [0.6, 1.0, None])
@pytest.mark.parametrize(
    "case", ["plain", "masked", "no positive", "duplicates", "unsorted", "labels"]
)
def test_info_nce_equals_slots(case, ratio, x64):
    """The distinct form equals the slots of the definition, whatever the batch looks like."""
    batch = make_batch(num_queries=6, list_size=5, num_passages=8, dtype=np.float64)
    rng = np.random.default_rng(2)
    labels = None
    if case == "masked":
        batch["where"] = rng.uniform(size=(6, 5)) < 0.6
    if case == "no positive":
        batch["where"][2, 0] = False
        batch["where"][4] = False
    if case == "duplicates":
        batch["list_index"][1] = [3, 3, 5, 5, 3]
        batch["list_index"][2, 0] = 3
    if case == "unsorted":
        batch["teacher_scores"] = rng.uniform(size=(6, 5))
    if case == "labels":
        labels = rng.integers(-1, 3, size=(6, 5))
        labels[:3, 0] = -1, 0, 1
        batch["where"][0, 2:] = False
    each = compiled_info_nce(temperature=0.1, false_negative_ratio=ratio, reduce_fn=None)
    losses = each(**batch, labels=labels)
    np.testing.assert_allclose(losses, info_nce_by_slots(batch, 0.1, ratio, labels), rtol=1e-9)


def test_info_nce_threshold_is_strict(x64):
    """A score of exactly ratio times the first stays a negative; one ulp more is dropped."""
    batch = make_batch(num_queries=1, list_size=2, num_passages=2, dtype=np.float64)
    batch["list_index"] = np.array([[0, 1]])
    threshold = 0.6 * 1.0
    loss_of = compiled_info_nce(false_negative_ratio=0.6)
    for score, kept in ((threshold, True), (np.nextafter(threshold, 1), False)):
        batch["teacher_scores"] = np.array([[1.0, score]])
        assert (float(loss_of(**batch)) > 1e-3) == kept


def test_info_nce_without_teacher_scores_masks_rows_only(x64):
    batch = make_batch(dtype=np.float64)
    without = batch | {"teacher_scores": None}
    masked, unmasked = (
        compiled_info_nce(temperature=0.01, false_negative_ratio=ratio) for ratio in (0.6, None)
    )
    np.testing.assert_allclose(masked(**without), unmasked(**batch))


@pytest.mark.parametrize(
    ("first", "level", "has_loss"),
    [(-1, 1, True), (0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True), (-1, 2, True)],
)
def test_a_first_entry_that_is_not_relevant_is_no_positive(first, level, has_loss, x64):
    """Two lists of the passages (1, 0) and (0, 1); the query of both is (1, 0)."""
    queries, passages = np.array([[1.0, 0.0], [1.0, 0.0]]), np.eye(2)
    index, labels = np.array([[0, 1], [1, 0]]), np.array([[3, 0], [first, 0]])

    loss = functools.partial(compiled_info_nce, relevance_level=level)
    each = loss(reduce_fn=None)(queries, passages, index, None, labels=labels)
    value, gradient = jax.value_and_grad(loss())(queries, passages, index, None, labels=labels)
    # Both slots of the other passage stand in each denominator, also those of a list without loss.
    expected = [np.log(np.e + 2) - 1, np.log(1 + 2 * np.e) if has_loss else 0.0]
    np.testing.assert_allclose(each, expected, rtol=1e-12)
    np.testing.assert_allclose(value, sum(expected) / (2 if has_loss else 1), rtol=1e-12)
    assert gradient[0].any()
    assert gradient[1].any() == has_loss


def test_examples_in_docstrings():
    modules = [f"ldx.losses.{module.name}" for module in pkgutil.iter_modules(ldx.losses.__path__)]
    results = [doctest.testmod(importlib.import_module(name)) for name in modules]
    assert sum(result.attempted for result in results) >= 8
    assert not any(result.failed for result in results)


def test_blocks_store_no_matrix_of_queries_and_passages():
    """Neither forwards nor backwards is there an array of Q x P numbers in the program."""
    rng = np.random.default_rng(0)
    num_queries, num_passages = 64, 4096
    q = jnp.asarray(rng.normal(size=(num_queries, 8)), jnp.float32)
    p = jnp.asarray(rng.normal(size=(num_passages, 8)), jnp.float32)
    index = jnp.asarray(rng.permutation(num_passages)[: num_queries * 4].reshape(num_queries, 4))

    def largest(block_size):
        def loss(q, p):
            return info_nce(q, p, index, None, temperature=0.01, block_size=block_size)

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(q, p).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert largest(None) > 4 * num_queries * num_passages
    assert largest(128) < 4 * num_queries * num_passages
    values = [
        compiled_info_nce(temperature=0.01, block_size=n)(q, p, index, None)
        for n in (None, 128, 1000, 5000)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_list_scores_equals_numpy():
    batch = make_batch()
    q, p, index = (batch[k] for k in ("query_embeddings", "passage_embeddings", "list_index"))
    expected = np.einsum("qd,qld->ql", q, p[index])
    np.testing.assert_allclose(functools.partial(list_scores, q)(p, index), expected, rtol=1e-5)
