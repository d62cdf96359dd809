"""The best passages for each query by dot product: exact, or by a ScaNN index.

Shapes: Q queries, N passages, D dimensions, k results.
"""

import functools
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ldx.errors import UserError

Index = Literal["auto", "exact", "scann"]

MIN_SCANN_PASSAGES = 20_000
MIN_TREE_PASSAGES = 100_000
PASSAGES_AT_ONCE = 65_536
QUERIES_AT_ONCE = 512
NUM_SAMPLE_QUERIES = 200
TARGET_RECALL = 0.95


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The k best passages of each query, best first; equal scores by row, ascending.

    Attributes:
      scores: float32 [Q, k], dot products.
      rows: int64 [Q, k].
      index: what searched, "exact" or "scann".
      recall: of the index against exact search, on a sample of queries; None where exact.
    """

    scores: np.ndarray
    rows: np.ndarray
    index: str
    recall: float | None


def search(
    query_embeddings: np.ndarray, passage_embeddings: np.ndarray, k: int, index: str = "auto"
) -> SearchResult:
    """Find the k passages (or all, if fewer) with the highest dot products.

    Args:
      query_embeddings: float32 [Q, D].
      passage_embeddings: float32 or float16 [N, D]; may be memory-mapped. Scores are computed in
        float32; ScaNN holds a float32 copy.
      k: results a query.
      index: "exact", "scann", or "auto": ScaNN from 20,000 passages where it is installed and
        finds 95% of what exact search finds, else exact.

    Raises:
      UserError: an unknown index, ScaNN is asked for and absent, or embeddings are not finite.
    """
    if index not in get_args(Index):
        raise UserError(f"index is {index!r}; known are {', '.join(get_args(Index))}")
    num_passages = len(passage_embeddings)
    assert min(k, num_passages) > 0, "search needs passages and k > 0"
    k = min(k, num_passages)
    scann = None
    if len(query_embeddings) and (
        index == "scann" or (index == "auto" and num_passages >= MIN_SCANN_PASSAGES)
    ):
        scann = _import_scann(required=index == "scann")
    if scann is not None:
        result = _search_scann(scann, query_embeddings, passage_embeddings, k)
        if index == "scann" or (result.recall or 0.0) >= TARGET_RECALL:
            return result
        logging.warning("recall %.3f of ScaNN is too low: searching exactly", result.recall)
    return SearchResult(*_search_exact(query_embeddings, passage_embeddings, k), "exact", None)


@functools.partial(jax.jit, static_argnames="k")
def _merge_top_k(
    queries: jax.Array,
    passages: jax.Array,
    first_row: jax.Array,
    num_valid: jax.Array,
    best: tuple[jax.Array, jax.Array],
    *,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """The best scores and rows so far, and those of one block of passages, merged.

    `top_k` keeps the earlier of equal entries, so blocks in order of rows give ties in order.
    """
    scores = jax.lax.dot_general(
        queries,
        passages,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    valid = jnp.arange(passages.shape[0]) < num_valid
    scores = jnp.where(valid[None, :], scores, -jnp.inf)
    block_scores, block_rows = jax.lax.top_k(scores, min(k, passages.shape[0]))
    all_scores = jnp.concatenate([best[0], block_scores], axis=1)
    all_rows = jnp.concatenate([best[1], block_rows.astype(jnp.int32) + first_row], axis=1)
    scores, places = jax.lax.top_k(all_scores, k)
    return scores, jnp.take_along_axis(all_rows, places, axis=1)


def _search_exact(
    query_embeddings: np.ndarray, passage_embeddings: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every dot product; passages pass through the device block by block, once."""
    num_queries, num_passages = len(query_embeddings), len(passage_embeddings)
    block = min(PASSAGES_AT_ONCE, num_passages)
    parts = [
        jnp.asarray(query_embeddings[start : start + QUERIES_AT_ONCE], jnp.float32)
        for start in range(0, num_queries, QUERIES_AT_ONCE)
    ]
    best = [
        (jnp.full((len(part), k), -jnp.inf), jnp.zeros((len(part), k), jnp.int32)) for part in parts
    ]
    for start in range(0, num_passages, block):
        passages = np.asarray(passage_embeddings[start : start + block], np.float32)
        num_valid = len(passages)
        # The last block is padded, so that all blocks share one program.
        passages = np.pad(passages, ((0, block - num_valid), (0, 0)))
        device_passages = jnp.asarray(passages)
        for i, part in enumerate(parts):
            best[i] = _merge_top_k(
                part, device_passages, jnp.int32(start), jnp.int32(num_valid), best[i], k=k
            )
        # Without a wait the blocks to come would pile up on the device.
        jax.block_until_ready(best)
    scores = np.concatenate([np.zeros((0, k), np.float32)] + [np.asarray(s) for s, _ in best])
    rows = np.concatenate([np.zeros((0, k), np.int64)] + [np.asarray(r) for _, r in best])
    _check_finite(scores, "scores of queries and passages")
    return scores, rows.astype(np.int64)


def _check_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise UserError(
            f"{what} are NaN or infinite; the model gives no usable embeddings (damaged weights, "
            "or a dtype that overflows)"
        )


def _import_scann(*, required: bool) -> Any | None:
    try:
        import scann
    # Beside a TensorFlow of another version the import fails with that library's own errors.
    except Exception as error:
        if required:
            raise UserError(
                f"index=scann, but scann cannot be imported ({error}); `pip install ldx[scann]`, "
                "or use --index=exact"
            ) from None
        logging.warning(
            "searching exactly: scann cannot be imported (%s); `pip install ldx[scann]` makes "
            "large corpora faster",
            error,
        )
        return None
    return scann.scann_ops_pybind


def _build_scann(scann: Any, passages: np.ndarray, k: int) -> tuple[Any, int]:
    """A searcher by ScaNN's own rule, and the number of its leaves (0: no tree)."""
    num_passages = len(passages)
    builder = scann.builder(passages, k, "dot_product").set_n_training_threads(os.cpu_count() or 1)
    if num_passages < MIN_SCANN_PASSAGES:
        return builder.score_brute_force().build(), 0
    num_leaves = 0
    if num_passages >= MIN_TREE_PASSAGES:
        num_leaves = int(num_passages**0.5)
        builder = builder.tree(num_leaves, max(1, num_leaves // 10), min(num_passages, 250_000))
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
    return builder.reorder(min(num_passages, max(200, 4 * k))).build(), num_leaves


def _search_scann(
    scann: Any, query_embeddings: np.ndarray, passage_embeddings: np.ndarray, k: int
) -> SearchResult:
    """Search by ScaNN; a tree looks into more leaves until its recall on the sample will do."""
    queries = np.ascontiguousarray(query_embeddings, np.float32)
    passages = np.ascontiguousarray(passage_embeddings, np.float32)
    _check_finite(passages, "embeddings of passages")
    _check_finite(queries, "embeddings of queries")
    searcher, num_leaves = _build_scann(scann, passages, k)
    size = min(NUM_SAMPLE_QUERIES, len(queries))
    sample = np.sort(np.random.default_rng(0).permutation(len(queries))[:size])
    exact_scores, _ = _search_exact(queries[sample], passages, k)
    leaves = max(1, num_leaves // 10)
    while True:
        found, _ = _query_scann(searcher, queries[sample], passages, k, leaves)
        recall = _recall(found, exact_scores)
        if recall >= TARGET_RECALL or leaves >= num_leaves:
            break
        leaves = min(2 * leaves, num_leaves)
    level = logging.INFO if recall >= TARGET_RECALL else logging.WARNING
    logging.log(level, "ScaNN finds %.3f of exact search (%d queries, k=%d)", recall, size, k)
    return SearchResult(*_query_scann(searcher, queries, passages, k, leaves), "scann", recall)


def _query_scann(
    searcher: Any, queries: np.ndarray, passages: np.ndarray, k: int, leaves: int
) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = searcher.search_batched_parallel(queries, leaves_to_search=leaves)
    rows, scores = np.asarray(rows).astype(np.int64), np.asarray(scores, np.float32)
    # Too few leaves can hold fewer than k passages; ScaNN fills up with NaN.
    short = ~np.isfinite(scores).all(axis=1)
    if short.any():
        scores[short], rows[short] = _search_exact(queries[short], passages, k)
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _recall(found_scores: np.ndarray, exact_scores: np.ndarray) -> float:
    """The part of found passages that score no less than the last of the exact ones.

    By scores, not rows, so that passages with equal texts can stand for each other.
    """
    least = exact_scores[:, -1:]
    return float((found_scores >= least - 1e-5 * np.abs(least)).mean())
