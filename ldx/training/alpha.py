"""How far to go from the base model towards the trained one, or beyond it: chosen on dev.

base + alpha (trained - base) costs no training: alpha under 1 keeps more of the base model, alpha
over 1 goes on in the direction that training took. Sources: WiSE-FT (Wortsman et al., arXiv
2109.01903) for alpha up to 1; task arithmetic (Ilharco et al., arXiv 2212.04089) for more.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import jax

from ldx.common.files import read_json, write_json
from ldx.common.types import Params
from ldx.eval.metrics import METRIC, SIGNIFICANT, compare

NAME = "alpha.json"


def interpolate(base: Params, trained: Params, alpha: float) -> Params:
    """The parameters base + alpha (trained - base); for alpha 1 those of the trained model."""
    if alpha == 1:
        return trained
    return jax.tree.map(lambda b, t: b + alpha * (t - b), base, trained)


def choose_alpha(values: Mapping[float, Mapping[str, float]]) -> float:
    """The alpha with the highest dev nDCG@10 of those that are better than 1; else 1.

    Better: by a paired permutation test over dev queries, p under 0.05. Several alphas are tried on
    the queries that chose the step, so the highest mean alone would often be chance.

    Args:
      values: nDCG@10 by query, by alpha; those of 1 are among them.
    """
    trained = values[1.0]
    better = [
        alpha
        for alpha, each in values.items()
        if mean(each) > mean(trained) and compare(each, trained).p_value < SIGNIFICANT
    ]
    return max(better, key=lambda alpha: mean(values[alpha]), default=1.0)


def mean(values: Mapping[str, float]) -> float:
    """The mean over queries."""
    return math.fsum(values.values()) / len(values)


def write_alphas(workdir: Path, values: Mapping[float, Mapping[str, float]], chosen: float) -> None:
    """Keep what was tried and what was chosen, for the report."""
    tried = {str(alpha): mean(each) for alpha, each in sorted(values.items())}
    write_json(workdir / NAME, {"metric": METRIC, "chosen": chosen, "tried": tried})


def read_alphas(workdir: Path) -> tuple[dict[float, float], float]:
    """Dev nDCG@10 by alpha, and the alpha that was chosen; nothing and 1 where none was tried."""
    path = workdir / NAME
    if not path.is_file():
        return {}, 1.0
    stored = read_json(path)
    return {float(alpha): value for alpha, value in stored["tried"].items()}, stored["chosen"]
