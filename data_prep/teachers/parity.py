"""The check before a long job that a fast engine ranks as transformers does."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.teachers import make_teacher
from data_prep.teachers.base import Pairs, Problem, Teacher
from ldx.common.errors import UserError, listing
from ldx.common.files import read_json, write_json

LEAST = 0.99
MIN_PAIRS = 10
NUM_SHOWN = 5


@dataclass(frozen=True)
class Parity:
    """How alike two teachers score the same pairs.

    Attributes:
      rank_correlation: Spearman's correlation.
      linear_correlation: Pearson's correlation.
      largest_difference: the largest difference between the two scores of a pair.
      num_pairs: how many pairs were compared.
    """

    rank_correlation: float
    linear_correlation: float
    largest_difference: float
    num_pairs: int


def check_parity(slow: Teacher, fast: Teacher, pairs: Pairs, least: float = LEAST) -> Parity:
    """Score pairs with both teachers, and compare as `compare_scores` does.

    Where a device has no room for both models, score with one after the other and call
    `compare_scores`.
    """
    scores = slow.score(pairs), fast.score(pairs)
    problems = [p for teacher in (slow, fast) for p in getattr(teacher, "problems", ())]
    return compare_scores(*scores, pairs, least, problems)


def compare_scores(
    slow: np.ndarray,
    fast: np.ndarray,
    pairs: Pairs,
    least: float = LEAST,
    problems: Sequence[Problem] = (),
) -> Parity:
    """Compare the scores of two engines, and refuse a fast one that ranks unlike the slow one.

    The linear correlation must reach the same bound, because scores that went through a sigmoid
    rank alike, but have lost what calibration needs.

    Args:
      slow: scores float32 [N] by transformers.
      fast: scores float32 [N] by the engine.
      pairs: the pairs that were scored; 50 are enough.
      least: the lowest correlation that is accepted.
      problems: the pairs that either could not score.

    Raises:
      UserError: a correlation is under `least`, too few pairs were scored by both, or all scores
        of one are equal. The message has the value and the pairs that differ most.
    """
    numbers = _scored_by_both(slow, fast, pairs, problems)
    from scipy.stats import rankdata

    scores = np.stack([slow[numbers], fast[numbers]]).astype(np.float64)
    ranks = rankdata(-scores, axis=1)
    parity = Parity(
        rank_correlation=float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
        linear_correlation=float(np.corrcoef(scores[0], scores[1])[0, 1]),
        largest_difference=float(np.abs(scores[0] - scores[1]).max()),
        num_pairs=len(numbers),
    )
    if parity.rank_correlation < least:
        what = f"Spearman's rank correlation is {parity.rank_correlation:.4f}"
        hint = "Do template, max_length and dtype fit the model, and does the engine support it?"
        differences = np.abs(ranks[0] - ranks[1])
    elif parity.linear_correlation < least:
        what = f"Pearson's correlation is {parity.linear_correlation:.4f}, though they rank alike"
        hint = "Does the engine still apply an activation, such as a sigmoid?"
        differences = np.abs(scores[0] - scores[1])
    else:
        return parity
    lines = [
        f"query {pairs.query_ids[numbers[i]]}, passage {pairs.doc_ids[numbers[i]]}: "
        f"{scores[0, i]:.4f} (rank {ranks[0, i]:g}) by transformers, "
        f"{scores[1, i]:.4f} (rank {ranks[1, i]:g}) by the fast engine"
        for i in np.argsort(-differences, kind="stable")
    ]
    raise UserError(
        f"parity: {what} over {len(numbers)} pairs, wanted {least} or more. Most unlike:\n"
        f"{listing(lines, NUM_SHOWN)}\n"
        f"{hint} Otherwise score with the transformers kind (cross_encoder, yes_no)"
    )


def _scored_by_both(
    slow: np.ndarray, fast: np.ndarray, pairs: Pairs, problems: Sequence[Problem]
) -> list[int]:
    """The places of pairs that both scored; there must be enough, and their scores must differ."""
    is_scored = np.isfinite(np.stack([slow, fast]))
    numbers: list[int] = np.flatnonzero(is_scored.all(axis=0)).tolist()
    num_one = int((is_scored[0] ^ is_scored[1]).sum())
    if len(numbers) < MIN_PAIRS or num_one:
        reasons = [f"query {p.query_id}, passage {p.doc_id}: {p.reason}" for p in problems]
        raise UserError(
            f"parity: of {len(pairs)} pairs {len(numbers)} were scored by both engines and "
            f"{num_one} by one alone; wanted {MIN_PAIRS} or more by both and none by one alone.\n"
            f"{listing(reasons)}"
        )
    for name, scores in (("transformers", slow[numbers]), ("the fast engine", fast[numbers])):
        if np.ptp(scores) == 0:
            raise UserError(f"parity: {name} gives all {len(scores)} pairs the score {scores[0]}")
    return numbers


def transformers_form(name: str, settings: Mapping[str, Any]) -> Teacher | None:
    """The teacher that a fast engine's teacher is compared with: the same model in transformers.

    Args:
      name: NAME of the section `config.prep.teachers.NAME`.
      settings: that section.

    Returns:
      The teacher; None where the kind is not a fast engine's.
    """
    if settings.get("kind") != "vllm":
        return None
    from data_prep.teachers.vllm_score import transformers_settings

    return make_teacher(name, transformers_settings(settings))


def kept_parity(
    path: Path, name: str, settings: Mapping[str, Any], sample: Callable[[], Pairs]
) -> dict[str, Any] | None:
    """The parity of a fast engine, measured before its long job and kept in a file.

    Args:
      path: the file; if it exists, nothing is measured again.
      name: NAME of the section `config.prep.teachers.NAME`.
      settings: that section.
      sample: makes the pairs that both score.

    Returns:
      The values of `Parity`; None where the kind is not a fast engine's.

    Raises:
      UserError: see `compare_scores`.
    """
    slow = transformers_form(name, settings)
    if slow is None:
        return None
    if not path.is_file():
        pairs = sample()
        expected = slow.score(pairs)
        del slow  # a device may have no room for both
        gc.collect()
        fast: Any = make_teacher(name, settings)
        scores = fast.score(pairs)
        problems = getattr(fast, "problems", ())
        getattr(fast, "close", lambda: None)()
        write_json(path, vars(compare_scores(expected, scores, pairs, problems=problems)))
    return read_json(path)
