"""Calibration of teachers' scores to [0, 1] by query type, and the fusion of several teachers.

Q queries, C candidates a query, T teachers. What was not scored is NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from data_prep.pipeline.settings import CalibrationMethod
from ldx.eval.list_stats import entropy, kendall_tau, same_best

LOW, HIGH = 1.0, 99.0  # these percentiles become 0 and 1
MOST_DEVIATIONS = 3.0  # so many below and above the mean become 0 and 1


class Calibration(Protocol):
    """A map of scores that was fitted to the scores of one teacher and query type.

    All but `Unchanged` map to [0, 1].

    Attributes:
      description: what the map does, for the manifest.
    """

    description: ClassVar[str]

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores float32 [Q, C] of raw ones; NaN stays."""

    def facts(self) -> dict[str, float]:
        """The arguments that make this calibration again, for the manifest."""

    @property
    def slope(self) -> float | None:
        """What a point of raw score adds where nothing is clipped; None where that varies."""


@dataclass(frozen=True)
class Percentile:
    """The score (s − low) / (high − low), clipped to [0, 1]; 0.5 where all scores were equal.

    low and high are the 1st and 99th percentile (CADET, arXiv 2505.19274).
    """

    description: ClassVar[str] = (
        "percentiles 1 and 99 to 0 and 1, clipped, by teacher and query type"
    )
    low: float
    high: float

    @classmethod
    def fit(cls, scores: np.ndarray) -> "Percentile":
        """Take the percentiles of all finite scores."""
        low, high = np.percentile(scores[np.isfinite(scores)].astype(np.float64), [LOW, HIGH])
        return cls(float(low), float(high))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores float32 [Q, C] of raw ones; NaN stays."""
        return np.clip(_linear(scores, self.low, self.high), 0.0, 1.0).astype(np.float32)

    def facts(self) -> dict[str, float]:
        """The two percentiles."""
        return {"low": self.low, "high": self.high}

    @property
    def slope(self) -> float:
        """1 / (high − low); 0 where all scores were equal."""
        return 1 / (self.high - self.low) if self.high > self.low else 0.0


@dataclass(frozen=True)
class ZScore:
    """The z-score (s − mean) / deviation, from −3 … 3 to 0 … 1; what is beyond is clipped."""

    description: ClassVar[str] = "z-scores -3 and 3 to 0 and 1, clipped, by teacher and query type"
    mean: float
    deviation: float

    @classmethod
    def fit(cls, scores: np.ndarray) -> "ZScore":
        """Take the mean and standard deviation of all finite scores."""
        finite = scores[np.isfinite(scores)].astype(np.float64)
        return cls(float(finite.mean()), float(finite.std()))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores float32 [Q, C] of raw ones; NaN stays."""
        reach = MOST_DEVIATIONS * self.deviation
        scaled = _linear(scores, self.mean - reach, self.mean + reach)
        return np.clip(scaled, 0.0, 1.0).astype(np.float32)

    def facts(self) -> dict[str, float]:
        """The mean and the standard deviation."""
        return {"mean": self.mean, "deviation": self.deviation}

    @property
    def slope(self) -> float:
        """1 / (6 deviations); 0 where all scores were equal."""
        return 1 / (2 * MOST_DEVIATIONS * self.deviation) if self.deviation > 0 else 0.0


@dataclass(frozen=True)
class Rank:
    """Ranks within a query's candidates, from 1 for the first to 0 for the last; ties share one."""

    description: ClassVar[str] = "ranks within a list, the first to 1, the last to 0"

    @classmethod
    def fit(cls, scores: np.ndarray) -> "Rank":
        """Make a calibration; ranks need no fit to the scores."""
        return cls()

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores float32 [Q, C] of raw ones; NaN stays."""
        from scipy.stats import rankdata  # a second to import

        ranks = rankdata(scores, axis=1, nan_policy="omit")
        count = np.isfinite(scores).sum(axis=1, keepdims=True)
        scaled = (ranks - 1) / np.maximum(count - 1, 1)
        return np.where(count > 1, scaled, np.where(np.isfinite(scores), 0.5, np.nan)).astype(
            np.float32
        )

    def facts(self) -> dict[str, float]:
        """No arguments, as nothing is fitted."""
        return {}

    @property
    def slope(self) -> None:
        """None, for a rank depends on the query's other candidates."""


@dataclass(frozen=True)
class Unchanged:
    """Scores as the teacher gave them, of any size: nothing is clipped.

    Those of a hybrid are z-scores over the corpus. The clipping of the other methods makes the best
    of long lists equal: in lists of 200, half of the first ten are more than three deviations above
    the mean.
    """

    description: ClassVar[str] = "none: scores as the teachers gave them"

    @classmethod
    def fit(cls, scores: np.ndarray) -> "Unchanged":
        """Make a calibration; there is nothing to fit."""
        return cls()

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The same scores, float32 [Q, C]; NaN stays."""
        return scores.astype(np.float32)

    def facts(self) -> dict[str, float]:
        """No arguments, as nothing is fitted."""
        return {}

    @property
    def slope(self) -> float:
        """1: a point of raw score is a point."""
        return 1.0


METHODS: Mapping[
    CalibrationMethod, type[Percentile] | type[ZScore] | type[Rank] | type[Unchanged]
] = {
    CalibrationMethod.PERCENTILE: Percentile,
    CalibrationMethod.Z_SCORE: ZScore,
    CalibrationMethod.RANK: Rank,
    CalibrationMethod.NONE: Unchanged,
}
"""Calibrations by the value of `config.prep.calibration`."""


def _linear(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    scores = scores.astype(np.float64)
    if high <= low:
        return np.where(np.isnan(scores), np.nan, 0.5)
    return (scores - low) / (high - low)


def fuse_scores(scores: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of teachers' scores, float32 [Q, C]; NaN where any teacher has none."""
    total = sum(weights)
    fused = sum(w * s.astype(np.float64) for w, s in zip(weights, scores, strict=True))
    return np.asarray(fused / total, np.float32)


def order_scores(raw: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Scores [Q, C] that order candidates as the teachers do, before calibration is fitted.

    The scores of a single teacher stay as they are. Those of several are scaled by each teacher's
    percentiles over all candidates, unclipped, so that no two candidates become equal, and fused.
    """
    if len(raw) == 1:
        return raw[0]
    scaled = []
    for scores in raw:
        scale = Percentile.fit(scores)
        scaled.append(_linear(scores, scale.low, scale.high))
    return fuse_scores(scaled, weights)


@dataclass(frozen=True)
class TeacherAgreement:
    """How far two teachers order the same candidates alike, as a mean over queries.

    Attributes:
      tau: Kendall's tau-b.
      top_1: the share of queries with the same best candidate.
    """

    tau: float
    top_1: float


def agreement(first: np.ndarray, second: np.ndarray) -> TeacherAgreement:
    """The agreement of two teachers' scores [Q, C] over queries where both scored two or more."""
    both = np.isfinite(first) & np.isfinite(second)
    several = both.sum(axis=1) > 1
    if not several.any():
        return TeacherAgreement(float("nan"), float("nan"))
    first, second, both = first[several], second[several], both[several]
    taus = kendall_tau(first, second, both)  # NaN where all scores are equal
    same = same_best(first, second, both)
    return TeacherAgreement(float(np.nan_to_num(taus).mean()), float(same.mean()))


def normalized_entropy(scores: np.ndarray, temperature: float) -> np.ndarray:
    """`ldx.eval.list_stats.entropy` of the scored entries of every query, float64 [Q].

    Args:
      scores: [Q, L]; NaN is no entry.
      temperature: the teacher's temperature.
    """
    return entropy(scores, np.isfinite(scores), temperature)


def matching_temperature(scores: np.ndarray, target: float) -> float:
    """The temperature at which the median `normalized_entropy` of lists is `target`.

    Args:
      scores: [Q, L]; NaN is no entry.
      target: over 0, under 1.
    """
    low, high = -7.0, 7.0  # of its logarithm
    for _ in range(30):
        middle = (low + high) / 2
        if np.nanmedian(normalized_entropy(scores, float(np.exp(middle)))) < target:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))
