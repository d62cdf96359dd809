"""What a device is held to: its own rate of matrix products, and float64 on the host.

Q queries, L list entries, P passages, D dimensions, T tokens, k results.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldx import losses
from ldx.models.pooling import normalize, pool
from ldx.retrieval.search import search
from tests.benchmarks.table import Case

TEMPERATURE = 0.01
RATIO = 0.6
KL_TEMPERATURES = {"student_temperature": 0.05, "teacher_temperature": 0.3}
TOLERANCE = 1e-4
"""Of the largest value: the differences of float32 logits at temperature 0.01 come to some 1e-5."""
MATMUL_SIZES = {"cpu": 1024, "gpu": 8192}
SEARCH_K = 10


class DeviceChecks:
    """For a process of its own: see `matmul_rate` and `float64_cases`."""

    def __init__(self, device: str):
        if device == "cpu":
            jax.config.update("jax_platforms", "cpu")
        assert jax.default_backend() == device, jax.default_backend()
        self._device = device

    def device_kind(self) -> str:
        """What JAX calls the device."""
        return jax.devices()[0].device_kind

    def matmul_rate(self, dtype: str) -> float:
        """Floating point operations a second of a big matrix product, its inputs random."""
        return matmul_rate(dtype, MATMUL_SIZES[self._device])

    def float64_cases(self) -> list[Case]:
        """See the function of this name, at sizes near those of a step."""
        if self._device == "cpu":
            return float64_cases(64, 8, 500, 64)
        return float64_cases(1024, 20, 5000, 768)


def matmul_rate(dtype: str, size: int, repeats: int = 20) -> float:
    """Operations a second of products of matrices [size, size], the best of three rounds."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in keys)
    multiply = jax.jit(jnp.matmul)
    multiply(a, b).block_until_ready()
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            product = multiply(a, b)
        product.block_until_ready()
        best = min(best, time.perf_counter() - start)
    return repeats * 2 * size**3 / best


def float64_cases(num_queries: int, list_size: int, num_passages: int, dim: int) -> list[Case]:
    """Losses, their gradients, pooling and search in float32 on the device, beside float64.

    An error is the largest difference relative to the largest value; the reference of a row is the
    error allowed.
    """
    rng = np.random.default_rng(0)
    # As trained models have them: a common direction, and scores near each other.
    common = rng.normal(size=dim)
    queries, passages = (
        _unit(common + 0.7 * rng.normal(size=(n, dim))).astype(np.float32)
        for n in (num_queries, num_passages)
    )
    index = np.stack([rng.permutation(num_passages)[:list_size] for _ in range(num_queries)])
    teacher = -np.sort(-rng.uniform(size=index.shape), axis=1).astype(np.float32)
    pairs = {
        **_loss_pairs(queries, passages, index, teacher),
        **_pooling_pairs(rng, dim),
        "exact search, scores": _search_pair(queries, passages),
    }
    return [
        Case("float64", name, relative_error(*pair), TOLERANCE, "relative error")
        for name, pair in pairs.items()
    ]


def relative_error(found: Any, exact: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    found = np.asarray(found, np.float64)
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def info_nce_float64(
    queries: np.ndarray, passages: np.ndarray, index: np.ndarray, teacher: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """InfoNCE [Q] at TEMPERATURE and its gradient [Q, D] with respect to the queries."""
    queries, passages = queries.astype(np.float64), passages.astype(np.float64)
    logits = queries @ passages.T / TEMPERATURE
    weights = np.repeat(np.bincount(index.ravel(), minlength=len(passages))[None], len(queries), 0)
    # In float32, as the scores are given: the mask is a comparison, and has to be the same.
    rows, entries = np.nonzero(teacher > np.float32(RATIO) * teacher[:, :1])
    weights[rows, index[rows, entries]] = 0
    weights[np.arange(len(queries)), index[:, 0]] = 1
    top = np.where(weights > 0, logits, -np.inf).max(axis=1, keepdims=True)
    terms = weights * np.exp(np.minimum(logits - top, 0))
    total = terms.sum(axis=1, keepdims=True)
    values = np.log(total[:, 0]) + top[:, 0] - logits[np.arange(len(queries)), index[:, 0]]
    return values, ((terms / total) @ passages - passages[index[:, 0]]) / TEMPERATURE


def _loss_pairs(
    queries: np.ndarray, passages: np.ndarray, index: np.ndarray, teacher: np.ndarray
) -> dict[str, tuple[Any, np.ndarray]]:
    def sum_of_losses(queries: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = losses.info_nce(
            queries,
            passages,
            index,
            teacher,
            temperature=TEMPERATURE,
            false_negative_ratio=RATIO,
            reduce_fn=None,
        )
        return values.sum(), values

    values_and_gradient: Callable = jax.jit(jax.value_and_grad(sum_of_losses, has_aux=True))
    (_, values), gradient = values_and_gradient(jnp.asarray(queries))
    exact_values, exact_gradient = info_nce_float64(queries, passages, index, teacher)
    scores = jax.jit(losses.list_scores)(queries, passages, index)
    listwise_kl = functools.partial(losses.listwise_kl, **KL_TEMPERATURES, reduce_fn=None)
    divergence = jax.jit(listwise_kl)(scores, teacher)
    exact_scores = np.einsum(
        "qd,qld->ql", queries.astype(np.float64), passages[index].astype(np.float64)
    )
    return {
        "InfoNCE at temperature 0.01": (values, exact_values),
        "InfoNCE at temperature 0.01, gradient": (gradient, exact_gradient),
        "list scores": (scores, exact_scores),
        "listwise KL": (divergence, _kl_float64(exact_scores, teacher.astype(np.float64))),
    }


def _kl_float64(scores: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    student = _log_softmax(scores / KL_TEMPERATURES["student_temperature"])
    target = _log_softmax(teacher / KL_TEMPERATURES["teacher_temperature"])
    return (np.exp(target) * (target - student)).sum(axis=1)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _pooling_pairs(rng: np.random.Generator, dim: int) -> dict[str, tuple[Any, np.ndarray]]:
    hidden = rng.normal(size=(32, 128, dim)).astype(np.float32)
    mask = np.arange(128)[None] < rng.integers(1, 129, size=(32, 1))
    found = jax.jit(lambda h, m: normalize(pool(h, m, "mean")))(hidden, mask)
    means = np.einsum("btd,bt->bd", hidden.astype(np.float64), mask) / mask.sum(axis=1)[:, None]
    return {"pooling and normalisation": (found, _unit(means))}


def _search_pair(queries: np.ndarray, passages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = search(queries, passages, SEARCH_K, index="exact")
    scores = queries.astype(np.float64) @ passages.astype(np.float64).T
    return found.scores, -np.sort(-scores, axis=1)[:, : found.scores.shape[1]]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
