"""Parameters beside those of the best step, which cost no training: chosen on dev.

base + alpha (best - base): alpha under 1 keeps more of the base model, alpha over 1 goes on in the
direction that training took. Sources: WiSE-FT (Wortsman et al., arXiv 2109.01903) for alpha up to
1; task arithmetic (Ilharco et al., arXiv 2212.04089) for more. And means: of the run's last
checkpoints, and of this run and others, such as those of other seeds (model soups, Wortsman et al.,
arXiv 2203.05482).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from ldx.common.files import read_json, write_json
from ldx.common.types import Params
from ldx.eval.metrics import METRIC, SIGNIFICANT, compare

NAME = "alpha.json"
BEST_STEP = ""
"""The variant that is the best step as it is; others are an alpha, or one of these means."""
CHECKPOINTS, RUNS = "checkpoints", "runs"
_MEANS = {CHECKPOINTS: "the mean of the last checkpoints", RUNS: "the mean of this and other runs"}


def interpolate(base: Params, trained: Params, alpha: float) -> Params:
    """The parameters base + alpha (trained - base); for alpha 1 those of the trained model."""
    if alpha == 1:
        return trained
    return jax.tree.map(lambda b, t: b + alpha * (t - b), base, trained)


def average(models: Sequence[Params]) -> Params:
    """The mean of several models' parameters."""
    return jax.tree.map(lambda *values: sum(values) / len(values), *models)


def choose(values: Mapping[str, Mapping[str, float]]) -> str:
    """The variant with the highest dev nDCG@10 of those that are better than the best step.

    Better: by a paired permutation test over dev queries, p under 0.05. Several are tried on the
    queries that chose the step, so the highest mean alone would often be chance.

    Args:
      values: nDCG@10 by query, by variant; those of the best step, "", are among them.

    Returns:
      A variant; "" where none is better.
    """
    best_step = values[BEST_STEP]
    better = [
        variant
        for variant, each in values.items()
        if mean(each) > mean(best_step) and compare(each, best_step).p_value < SIGNIFICANT
    ]
    return max(better, key=lambda variant: mean(values[variant]), default=BEST_STEP)


def mean(values: Mapping[str, float]) -> float:
    """The mean over queries."""
    return math.fsum(values.values()) / len(values)


@dataclasses.dataclass(frozen=True)
class Tried:
    """What was tried after training, and what is kept.

    Attributes:
      alphas: dev nDCG@10 by alpha, in ascending order; that of the best step is 1.
      means: dev nDCG@10 by what the mean is of, such as RUNS.
      kept: the variant that is kept.
    """

    alphas: dict[float, float] = dataclasses.field(default_factory=dict)
    means: dict[str, float] = dataclasses.field(default_factory=dict)
    kept: str = BEST_STEP

    @property
    def text(self) -> str:
        """What was tried and what is kept, in one line."""
        values = {f"alpha {alpha:g}": value for alpha, value in self.alphas.items()}
        values |= {in_words(name): value for name, value in self.means.items()}
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        return f"{numbers}; {in_words(self.kept)} is kept"


def alpha_name(alpha: float) -> str:
    """The variant base + alpha (best - base)."""
    return BEST_STEP if alpha == 1 else f"{alpha:g}"


def alpha_of(variant: str) -> float:
    """The alpha of a variant; that of means is 1."""
    return 1.0 if variant == BEST_STEP or variant in _MEANS else float(variant)


def in_words(variant: str) -> str:
    """A variant in words."""
    return _MEANS.get(variant) or f"alpha {alpha_of(variant):g}"


def formula(variant: str) -> str | None:
    """How the parameters of a variant come from those of steps; None: they are the best step's."""
    if variant == BEST_STEP:
        return None
    return _MEANS.get(variant) or f"base + {alpha_of(variant):g} (trained - base)"


def write_tried(workdir: Path, values: Mapping[str, Mapping[str, float]], kept: str) -> Tried:
    """Keep what was tried and what is kept, for the report."""
    means = {name: mean(values[name]) for name in _MEANS if name in values}
    alphas = {alpha_of(name): mean(each) for name, each in values.items() if name not in means}
    tried = {f"{alpha:g}": value for alpha, value in sorted(alphas.items())}
    chosen = {"chosen": alpha_of(kept), "tried": tried, "means": means, "kept": kept}
    write_json(workdir / NAME, {"metric": METRIC, **chosen})
    return read_tried(workdir)


def read_tried(workdir: Path) -> Tried:
    """What a run tried and kept; nothing and the best step where it tried nothing."""
    path = workdir / NAME
    if not path.is_file():
        return Tried()
    stored = read_json(path)
    alphas = {float(alpha): value for alpha, value in stored["tried"].items()}
    # Runs that are older than means say which alpha is kept.
    kept = stored.get("kept", alpha_name(stored["chosen"]))
    return Tried(alphas, stored.get("means", {}), kept)
