"""Facts about targets: how much they teach, and how far the teachers behind them agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from data_prep.lists.calibration import agreement, matching_temperature, normalized_entropy

MAX_QUERIES = 2000  # so many of each type are looked at, fewer where lists are very long:
MAX_ENTRIES = 2_000_000  # of all lists together
MAX_PAIRS = 200_000_000  # of candidates of a query, for all queries together
NEARLY_FLAT, NEARLY_ONE_HOT = 0.95, 0.05  # normalised entropy of targets that teach little
MUCH_FLATTER = 0.25  # with so much more entropy than the student's, targets flatten its scores


def agreements(teachers: Sequence[str], raw: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """How far every two teachers order the same candidates alike, by both names.

    Args:
      teachers: their names.
      raw: scores [Q, C] of each teacher.
    """
    facts = {}
    num_queries = min(MAX_QUERIES, max(1, MAX_PAIRS // raw[0].shape[1] ** 2))
    for i, first in enumerate(teachers):
        for j in range(i + 1, len(teachers)):
            value = agreement(raw[i][:num_queries], raw[j][:num_queries])
            facts[f"{first} and {teachers[j]}"] = {
                "tau": round(value.tau, 4),
                "top-1": round(value.top_1, 4),
            }
    return facts


def target_entropy(
    query_type: str, scores: np.ndarray, student: np.ndarray | None, loss: Any
) -> Mapping[str, float]:
    """Quantiles of the targets' entropy, and the temperature at which it matches the student's.

    A warning is logged where the targets teach little.

    Args:
      query_type: the type of the lists' queries.
      scores: [G, L], the teachers' scores, calibrated and fused; NaN is padding.
      student: [G, L], the student's own scores; None where it is not among the retrievers.
      loss: the section `config.loss.listwise_kl`, for its temperatures.
    """
    num_lists = min(MAX_QUERIES, max(1, MAX_ENTRIES // scores.shape[1]))
    scores, temperature = scores[:num_lists], loss.teacher_temperature
    entropy = normalized_entropy(scores, temperature)
    low, median, high = np.quantile(entropy, [0.1, 0.5, 0.9]).round(4).tolist()
    facts = {"10%": low, "median": median, "90%": high}
    change, most = "", NEARLY_FLAT
    if student is not None:
        own = np.median(normalized_entropy(student[:num_lists], loss.student_temperature))
        matching = matching_temperature(scores, float(np.clip(own, 0.01, 0.99)))
        facts |= {"student": round(float(own), 4), "matching temperature": round(matching, 4)}
        change = f"; at {matching:.2g} it would be the student's own, {own:.2f}"
        most = min(most, own + MUCH_FLATTER)
    if not NEARLY_ONE_HOT < median < most:
        shape = (
            "flatter than the scores a student begins with: they press these together"
            if median >= most
            else "almost one-hot: they teach no more than a label"
        )
        logging.warning(
            "%s: at loss.listwise_kl.teacher_temperature=%g the targets are %s (median entropy "
            "%.2f of the most%s)",
            *(query_type, temperature, shape, median, change),
        )
    return facts
