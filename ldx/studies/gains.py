"""Gains over seeds and datasets, their intervals and tests, corrected for how many there are.

What is compared are gains, trained model less base model, query by query. On one collection the
base model's part cancels, and the difference of two gains is that of the two trained models.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ldx.eval.metrics import Comparison, compare

PerQuery = Mapping[str, float]


@dataclass(frozen=True)
class Gains:
    """The gains of one configuration, of every seed.

    Attributes:
      by_seed: gain by query id, by seed.
    """

    by_seed: Mapping[int, PerQuery]

    def over_seeds(self, seeds: Iterable[int] | None = None) -> dict[str, float]:
        """The mean over seeds of each query; over those of `seeds` that have the query."""
        chosen = self.by_seed.keys() if seeds is None else seeds
        values: dict[str, list[float]] = {}
        for seed in chosen:
            for query, gain in self.by_seed[seed].items():
                values.setdefault(query, []).append(gain)
        return {query: statistics.fmean(each) for query, each in values.items()}

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds of the mean gain; None of one seed."""
        means = [statistics.fmean(gains.values()) for gains in self.by_seed.values()]
        return statistics.stdev(means) if len(means) > 1 else None


def gain_against_base(gains: Gains) -> Comparison:
    """The mean gain over queries, each averaged over seeds first: seeds are no new queries."""
    values = gains.over_seeds()
    return compare(values, dict.fromkeys(values, 0.0))


def compare_gains(ours: Gains, baseline: Gains) -> Comparison | None:
    """How two configurations differ, over the seeds and the queries that both have.

    None where they have none in common.
    """
    seeds = [seed for seed in ours.by_seed if seed in baseline.by_seed]
    a, b = ours.over_seeds(seeds), baseline.over_seeds(seeds)
    queries = [query for query in a if query in b]
    if not queries:
        return None
    return compare({q: a[q] for q in queries}, {q: b[q] for q in queries})


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for all of them being looked at (Holm 1979), in their order.

    The i-th smallest of m becomes the largest of min(1, (m - j + 1) p_j) for j up to i: the chance
    of even one false finding among all whose corrected p is under 0.05 is at most 0.05.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    scaled = (min(1.0, (len(order) - j) * p_values[i]) for j, i in enumerate(order))
    corrected = dict(zip(order, itertools.accumulate(scaled, max), strict=True))
    return [corrected[i] for i in range(len(p_values))]


def mean_over_datasets(values: Mapping[str, Sequence[float]]) -> float:
    """The mean of the datasets' means: each counts alike, however many cells it has."""
    return statistics.fmean(statistics.fmean(each) for each in values.values())
