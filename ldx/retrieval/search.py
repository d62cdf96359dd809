"""The best passages for each query by dot product: exact, or by a ScaNN index.

Shapes: Q queries, N passages, D dimensions, k results.
"""

import functools
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.memory import memory_limit
from ldx.common.types import IndexKind

MIN_SCANN_PASSAGES = 20_000
SCANN_MEMORY_SHARE = 0.25
MIN_TREE_PASSAGES = 100_000
PASSAGES_AT_ONCE = 65_536
QUERIES_AT_ONCE = 512
NUM_SAMPLE_QUERIES = 200
TARGET_RECALL = 0.95


class _Best(NamedTuple):
    """The k best passages of each query, best first, on the host or on a device.

    Attributes:
      scores: float32 [Q, k].
      rows: int [Q, k].
    """

    scores: Any
    rows: Any


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The k best passages of each query, best first; equal scores by row, ascending.

    Attributes:
      scores: float32 [Q, k], dot products.
      rows: int64 [Q, k].
      index: how they were found, "exact" or "scann".
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
      passage_embeddings: as for `Searcher`.
      k: results a query.
      index: as for `Searcher`; its recall is measured on a sample of these queries.

    Raises:
      UserError: as for `Searcher`.
    """
    searcher = Searcher(passage_embeddings, k, index, sample_queries=query_embeddings)
    return searcher.search(query_embeddings)


class Searcher:
    """Finds passages for one set of queries after another, with an index that is built once.

    Args:
      passage_embeddings: float32 or float16 [N, D]; may be memory-mapped. Scores are computed in
        float32; ScaNN holds a float32 copy.
      k: results a query, or all passages, if there are fewer.
      index: "exact", "scann", or "auto": ScaNN from 20,000 passages where it is installed, its
        copy takes at most a quarter of the machine's memory, and it finds 95% of what exact search
        finds; else exact.
      sample_queries: float32 [S, D]; ScaNN's recall is measured on at most 200 of them.
      excluded: bool [N], passages that are never found; None: every passage may be.

    Raises:
      UserError: an unknown index, ScaNN is asked for and absent, or embeddings are not finite.
    """

    def __init__(
        self,
        passage_embeddings: np.ndarray,
        k: int,
        index: str = "auto",
        *,
        sample_queries: np.ndarray,
        excluded: np.ndarray | None = None,
    ):
        if index not in list(IndexKind):
            raise UserError(f"index is {index!r}; known are {', '.join(IndexKind)}")
        num_passages = len(passage_embeddings)
        excluded = np.zeros(num_passages, bool) if excluded is None else excluded
        num_included = num_passages - int(excluded.sum())
        assert min(k, num_included) > 0, "search needs passages and k > 0"
        self.k = min(k, num_included)
        self._passages, self._excluded = passage_embeddings, excluded
        self._scann: _Scann | None = None
        if len(sample_queries) and (
            index == IndexKind.SCANN
            or (
                index == IndexKind.AUTO
                and num_included >= MIN_SCANN_PASSAGES
                and _copy_fits(passage_embeddings)
            )
        ):
            library = _import_scann(required=index == IndexKind.SCANN)
            if library is not None:
                self._scann = _Scann(library, passage_embeddings, excluded, self.k, sample_queries)
                if index == IndexKind.AUTO and self._scann.recall < TARGET_RECALL:
                    recall = self._scann.recall
                    logging.warning("recall %.3f of ScaNN is too low: searching exactly", recall)
                    self._scann = None

    def search(self, query_embeddings: np.ndarray) -> SearchResult:
        """The k best passages of each query; query_embeddings float32 [Q, D]."""
        if self._scann is not None:
            best = self._scann.search(query_embeddings)
            return SearchResult(best.scores, best.rows, "scann", self._scann.recall)
        best = _search_exact(query_embeddings, self._passages, self.k, self._excluded)
        return SearchResult(best.scores, best.rows, "exact", None)


def _copy_fits(embeddings: np.ndarray) -> bool:
    """Whether ScaNN's float32 copy takes no more than its share of the machine's memory."""
    if 4 * embeddings.size <= SCANN_MEMORY_SHARE * memory_limit():
        return True
    logging.info(
        "searching exactly: ScaNN's copy of %d embeddings would take over %d%% of the memory",
        *(len(embeddings), round(100 * SCANN_MEMORY_SHARE)),
    )
    return False


@functools.partial(jax.jit, static_argnames="k")
def _merge_top_k(
    queries: jax.Array,
    passages: jax.Array,
    first_row: jax.Array,
    valid: jax.Array,
    best: _Best,
    *,
    k: int,
) -> _Best:
    """The best passages so far and those of one block, merged.

    `top_k` keeps the earlier of equal entries, so blocks in order of rows give ties in order.
    """
    scores = jax.lax.dot_general(
        queries,
        passages,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    scores = jnp.where(valid[None, :], scores, -jnp.inf)
    block_scores, block_rows = jax.lax.top_k(scores, min(k, passages.shape[0]))
    all_scores = jnp.concatenate([best.scores, block_scores], axis=1)
    all_rows = jnp.concatenate([best.rows, block_rows.astype(jnp.int32) + first_row], axis=1)
    scores, places = jax.lax.top_k(all_scores, k)
    return _Best(scores, jnp.take_along_axis(all_rows, places, axis=1))


def _search_exact(
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    k: int,
    excluded: np.ndarray | None = None,
) -> _Best:
    """The best of all dot products; passages pass through the device block by block, once."""
    num_queries, num_passages = len(query_embeddings), len(passage_embeddings)
    block = min(PASSAGES_AT_ONCE, num_passages)
    parts = [
        jnp.asarray(query_embeddings[start : start + QUERIES_AT_ONCE], jnp.float32)
        for start in range(0, num_queries, QUERIES_AT_ONCE)
    ]
    best = [
        _Best(jnp.full((len(part), k), -jnp.inf), jnp.zeros((len(part), k), jnp.int32))
        for part in parts
    ]
    for start in range(0, num_passages, block):
        passages = np.asarray(passage_embeddings[start : start + block], np.float32)
        missing = block - len(passages)
        valid = np.ones(len(passages), bool)
        if excluded is not None:
            valid = ~excluded[start : start + block]
        # The last block is padded, so that all blocks share one program.
        device_passages = jnp.asarray(np.pad(passages, ((0, missing), (0, 0))))
        device_valid = jnp.asarray(np.pad(valid, (0, missing)))
        for i, part in enumerate(parts):
            best[i] = _merge_top_k(
                part, device_passages, jnp.int32(start), device_valid, best[i], k=k
            )
        # Without a wait the blocks to come would pile up on the device.
        jax.block_until_ready(best)
    scores = np.concatenate([np.zeros((0, k), np.float32), *(each.scores for each in best)])
    rows = np.concatenate([np.zeros((0, k), np.int64), *(each.rows for each in best)])
    _check_finite(scores, "scores of queries and passages")
    return _Best(scores, rows.astype(np.int64))


def _check_finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise UserError(
            f"{name} are NaN or infinite; the model gives no usable embeddings (damaged weights, "
            "or a dtype that overflows)"
        )


def _import_scann(*, required: bool) -> Any | None:
    try:
        import scann
    # Beside a TensorFlow of another version the import fails with that library's own errors.
    except Exception as error:
        if required:
            raise UserError(
                f"index=scann, but scann cannot be imported ({error}); `pip install '.[scann]'`, "
                "or use --index=exact"
            ) from None
        logging.warning(
            "searching exactly: scann cannot be imported (%s); `pip install '.[scann]'` makes "
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


class _Scann:
    """A ScaNN index of the passages that are not excluded; see `Searcher` for the arguments.

    Twice as many leaves of a tree are searched until the recall on the sample is high enough.
    """

    def __init__(
        self,
        library: Any,
        passage_embeddings: np.ndarray,
        excluded: np.ndarray,
        k: int,
        sample_queries: np.ndarray,
    ):
        self._included_rows = np.flatnonzero(~excluded)
        if excluded.any():
            passage_embeddings = passage_embeddings[self._included_rows]
        self._passages = np.ascontiguousarray(passage_embeddings, np.float32)
        self._k = k
        _check_finite(self._passages, "embeddings of passages")
        self._searcher, num_leaves = _build_scann(library, self._passages, k)
        size = min(NUM_SAMPLE_QUERIES, len(sample_queries))
        chosen = np.sort(np.random.default_rng(0).permutation(len(sample_queries))[:size])
        sample = np.ascontiguousarray(sample_queries[chosen], np.float32)
        _check_finite(sample, "embeddings of queries")
        exact = _search_exact(sample, self._passages, k)
        self._leaves = max(1, num_leaves // 10)
        while True:
            self.recall = _recall(self._query(sample).scores, exact.scores)
            if self.recall >= TARGET_RECALL or self._leaves >= num_leaves:
                break
            self._leaves = min(2 * self._leaves, num_leaves)
        level = logging.INFO if self.recall >= TARGET_RECALL else logging.WARNING
        logging.log(
            level, "ScaNN finds %.3f of exact search (%d queries, k=%d)", self.recall, size, k
        )

    def search(self, query_embeddings: np.ndarray) -> _Best:
        """The best passages of each query, by their rows among all passages."""
        queries = np.ascontiguousarray(query_embeddings, np.float32)
        _check_finite(queries, "embeddings of queries")
        best = self._query(queries)
        return _Best(best.scores, self._included_rows[best.rows])

    def _query(self, queries: np.ndarray) -> _Best:
        """The best passages, by their rows among those that are not excluded."""
        rows, scores = self._searcher.search_batched_parallel(
            queries, leaves_to_search=self._leaves
        )
        rows, scores = np.asarray(rows).astype(np.int64), np.asarray(scores, np.float32)
        # Too few leaves can hold fewer than k passages; ScaNN fills up with NaN.
        short = ~np.isfinite(scores).all(axis=1)
        if short.any():
            scores[short], rows[short] = _search_exact(queries[short], self._passages, self._k)
        order = np.lexsort((rows, -scores), axis=1)
        return _Best(*(np.take_along_axis(values, order, axis=1) for values in (scores, rows)))


def _recall(scores: np.ndarray, exact_scores: np.ndarray) -> float:
    """The share of found passages that score no less than the last of the exact ones.

    By scores, not rows, so that passages with equal texts can stand for each other.
    """
    least = exact_scores[:, -1:]
    return float((scores >= least - 1e-5 * np.abs(least)).mean())
