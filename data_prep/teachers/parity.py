"""The gate before a long job: a fast engine must rank as transformers does."""

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
    """How alike two teachers score.

    Attributes:
      rank_correlation: Spearman's.
      linear_correlation: Pearson's.
      largest_difference: of any two scores.
      num_pairs: how many were compared.
    """

    rank_correlation: float
    linear_correlation: float
    largest_difference: float
    num_pairs: int


def check_parity(slow: Teacher, fast: Teacher, pairs: Pairs, least: float = LEAST) -> Parity:
    """Score pairs with both and compare; see `compare_scores`.

    Where a device has no room for both models, score with each by itself and use `compare_scores`.
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
    """Refuse a fast engine that ranks unlike the slow one.

    The linear correlation is held to the same bound: scores that went through a sigmoid are ranked
    alike, and lose what calibration needs.

    Args:
      slow: scores float32 [N] by transformers.
      fast: scores float32 [N] by the engine.
      pairs: what was scored; 50 are enough.
      least: the least correlation.
      problems: why pairs were not scored, by either.

    Raises:
      UserError: a correlation is under `least`, too few pairs were scored by both, or all scores
        of one are equal. It names the value and the pairs that differ most.
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
        unlike = np.abs(ranks[0] - ranks[1])
    elif parity.linear_correlation < least:
        what = f"Pearson's correlation is {parity.linear_correlation:.4f}, though they rank alike"
        hint = "Does the engine still apply an activation, such as a sigmoid?"
        unlike = np.abs(scores[0] - scores[1])
    else:
        return parity
    shown = [
        f"query {pairs.query_ids[numbers[i]]}, passage {pairs.doc_ids[numbers[i]]}: "
        f"{scores[0, i]:.4f} (rank {ranks[0, i]:g}) by transformers, "
        f"{scores[1, i]:.4f} (rank {ranks[1, i]:g}) by the fast engine"
        for i in np.argsort(-unlike, kind="stable")
    ]
    raise UserError(
        f"parity: {what} over {len(numbers)} pairs, wanted {least} or more. Most unlike:\n"
        f"{listing(shown, NUM_SHOWN)}\n"
        f"{hint} Otherwise score with the transformers kind (cross_encoder, yes_no)"
    )


def _scored_by_both(
    slow: np.ndarray, fast: np.ndarray, pairs: Pairs, problems: Sequence[Problem]
) -> list[int]:
    """The pairs that can be compared, if they can say anything."""
    has = np.isfinite(np.stack([slow, fast]))
    numbers: list[int] = np.flatnonzero(has.all(axis=0)).tolist()
    num_one = int((has[0] ^ has[1]).sum())
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
      name: of the section `config.prep.teachers.NAME`.
      settings: its keys.

    Returns:
      None for a kind that is no fast engine's.
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
      path: of the file; what it holds is not measured again.
      name: of the section `config.prep.teachers.NAME`.
      settings: its keys.
      sample: makes the pairs that both score.

    Returns:
      The values of `Parity`; None of a teacher that is no fast engine's.

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
