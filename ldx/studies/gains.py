"""Gains over seeds and datasets, their intervals and tests, and the correction for many tests.

A gain is the metric of the trained model less that of the base model, query by query. On one
collection the base model cancels out of the difference of two gains, which is then that of the two
trained models.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ldx.eval.metrics import Comparison, compare

PerQuery = Mapping[str, float]


@dataclass(frozen=True)
class Gains:
    """The gains of one configuration with every seed.

    Attributes:
      by_seed: gains by seed, then by query id.
    """

    by_seed: Mapping[int, PerQuery]

    def over_seeds(self, seeds: Iterable[int] | None = None) -> dict[str, float]:
        """The mean gain of each query over the seeds that have it; `seeds` None means all."""
        chosen = self.by_seed.keys() if seeds is None else seeds
        values: dict[str, list[float]] = {}
        for seed in chosen:
            for query, gain in self.by_seed[seed].items():
                values.setdefault(query, []).append(gain)
        return {query: statistics.fmean(each) for query, each in values.items()}

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds of the mean gain; None for one seed."""
        means = [statistics.fmean(gains.values()) for gains in self.by_seed.values()]
        return statistics.stdev(means) if len(means) > 1 else None


def gain_against_base(gains: Gains) -> Comparison:
    """The mean gain over queries, each averaged over seeds first, as seeds are no new queries."""
    values = gains.over_seeds()
    return compare(values, dict.fromkeys(values, 0.0))


def compare_gains(ours: Gains, baseline: Gains) -> Comparison | None:
    """The difference of two configurations over the seeds and queries that both have.

    None where they have no seed or no query in common.
    """
    seeds = [seed for seed in ours.by_seed if seed in baseline.by_seed]
    a, b = ours.over_seeds(seeds), baseline.over_seeds(seeds)
    queries = [query for query in a if query in b]
    if not queries:
        return None
    return compare({q: a[q] for q in queries}, {q: b[q] for q in queries})


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values, in their order, corrected for their number (Holm 1979).

    The i-th smallest of m becomes the largest of min(1, (m - j + 1) p_j) for j up to i: the chance
    of even one false finding among those with a corrected p under 0.05 is at most 0.05.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    scaled = (min(1.0, (len(order) - j) * p_values[i]) for j, i in enumerate(order))
    corrected = dict(zip(order, itertools.accumulate(scaled, max), strict=True))
    return [corrected[i] for i in range(len(p_values))]


def mean_over_datasets(values: Mapping[str, Sequence[float]]) -> float:
    """The mean of the datasets' means, which count alike however many cells they have."""
    return statistics.fmean(statistics.fmean(each) for each in values.values())
