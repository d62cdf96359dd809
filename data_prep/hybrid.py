"""The hybrid teacher: w · z(dense) + (1 − w) · z(BM25), and the choice of w.

z-scores are taken for each query over the whole corpus. Q queries, C candidates.
"""

import numpy as np

WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))
DEFAULT_WEIGHT = 0.5
MIN_QUERIES = 30  # fewer say nothing about the weight


def hybrid_scores(z_bm25: np.ndarray, z_dense: np.ndarray, weight: float) -> np.ndarray:
    """Hybrid scores, float32, of z-scores of one shape (`data_prep.candidates.z_scores`)."""
    return (weight * z_dense + (1 - weight) * z_bm25).astype(np.float32)


def ndcg_at_10(scores: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """nDCG@10 of candidates [Q, C] by score; padding has score -inf; float64 [Q]."""
    discounts = 1 / np.log2(np.arange(2, 12))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    found = np.take_along_axis(gains, order, axis=1)
    ideal = -np.sort(-gains, axis=1)[:, :10]
    dcg = (found * discounts[: found.shape[1]]).sum(1)
    return dcg / np.maximum((ideal * discounts[: ideal.shape[1]]).sum(1), 1e-9)


def ndcg_by_weight(
    z_bm25: np.ndarray, z_dense: np.ndarray, padding: np.ndarray, gains: np.ndarray
) -> np.ndarray:
    """nDCG@10 at each of WEIGHTS, float64 [len(WEIGHTS), Q]; all arguments [Q, C]."""
    values = []
    for weight in WEIGHTS:
        scores = hybrid_scores(z_bm25, z_dense, weight)
        values.append(ndcg_at_10(np.where(padding, -np.inf, scores), gains))
    return np.stack(values)


def best_weight(ndcg: np.ndarray) -> float:
    """The weight nearest to one half that no other beats by more than a standard error.

    The error is that of the paired difference to the best weight, so few queries, or queries that
    do not care, leave the two retrievers equal. ndcg [len(WEIGHTS), num_queries].
    """
    loss = ndcg[ndcg.mean(axis=1).argmax()] - ndcg
    error = loss.std(axis=1) / np.sqrt(ndcg.shape[1])
    as_good = np.flatnonzero(loss.mean(axis=1) <= error + 1e-12)
    return min((WEIGHTS[i] for i in as_good), key=lambda weight: abs(weight - 0.5))
