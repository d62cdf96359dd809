"""Numbers of single lists: divergence, entropy, and how far two scorers agree on the order.

Shapes: N lists, L entries. Scores are before any temperature; entries outside `where` are padding,
and their values do not matter. Results are float64, NaN for a list that has no such number.
"""

import numpy as np

PAIRS_AT_ONCE = 2**24  # of entries of a list, compared in memory together


def _log_softmax(scores: np.ndarray, where: np.ndarray, temperature: float) -> np.ndarray:
    """Logarithms of softmax(scores / temperature), [N, L]; -inf at padding, NaN for empty lists."""
    logits = np.where(where, scores.astype(np.float64) / temperature, -np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        logits = logits - logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def divergence(
    student: np.ndarray,
    teacher: np.ndarray,
    where: np.ndarray,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> np.ndarray:
    """KL(softmax(teacher / T) || softmax(student / S)) of every list, [N], as in `listwise_kl`."""
    p = _log_softmax(teacher, where, teacher_temperature)
    q = _log_softmax(student, where, student_temperature)
    with np.errstate(invalid="ignore"):
        terms = np.where(where, np.exp(p) * (p - q), 0.0)
    return np.where(where.any(axis=1), terms.sum(axis=1), np.nan)


def entropy(scores: np.ndarray, where: np.ndarray, temperature: float) -> np.ndarray:
    """Entropy of softmax(scores / temperature) as a share of the flat distribution's, [N].

    With 1 all entries are alike and nothing can be learned; with 0 one entry has everything, which
    says no more than a label. Lists of fewer than two entries have NaN.
    """
    logits = np.where(where, scores.astype(np.float64) / temperature, -np.inf)
    size = where.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        logits = logits - logits.max(axis=1, keepdims=True)
        probability = np.exp(logits)
        probability /= probability.sum(axis=1, keepdims=True)
        terms = np.where(probability > 0, probability * np.log(probability), 0.0)
        return np.where(size > 1, -terms.sum(axis=1) / np.log(size), np.nan)


def kendall_tau(first: np.ndarray, second: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of two scorers' orders of every list, [N] (Kendall 1945).

    NaN where one of them gives all entries the same score, and for fewer than two entries.
    """
    taus = np.full(len(first), np.nan)
    step = max(1, PAIRS_AT_ONCE // max(first.shape[1], 1) ** 2)
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        pairs = where[part, :, None] & where[part, None, :]
        first_signs, second_signs = (
            np.where(pairs, np.sign(scores[:, :, None] - scores[:, None, :]), 0)
            for scores in (first[part], second[part])
        )
        # Every pair counts twice here, and once in scipy, whose steps and rounding these are.
        agreeing = (first_signs * second_signs).sum(axis=(1, 2), dtype=np.float64) / 2
        first_untied, second_untied = (
            np.abs(signs).sum(axis=(1, 2), dtype=np.float64) / 2
            for signs in (first_signs, second_signs)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            tau = agreeing / np.sqrt(first_untied) / np.sqrt(second_untied)
        taus[part] = np.clip(tau, -1.0, 1.0)
    return taus


def same_best(first: np.ndarray, second: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Whether both scorers put the same entry first, as 0 or 1, [N]; NaN for empty lists."""
    best = [np.where(where, scores, -np.inf).argmax(axis=1) for scores in (first, second)]
    return np.where(where.any(axis=1), (best[0] == best[1]).astype(float), np.nan)


def ndcg_against_best(
    student: np.ndarray, teacher: np.ndarray, where: np.ndarray, num_best: int = 10
) -> np.ndarray:
    """nDCG of the student's order of every list, with the teacher's best entries as relevant, [N].

    Of the `num_best` entries that the teacher puts first, the first has grade `num_best` and the
    last has grade 1; all others have 0. Gains are linear, and the ranking is cut at `num_best`.
    Among equal scores of the teacher the earlier entry is better; among equal scores of the student
    the later entry comes first, so that lists in the teacher's order do not help a student that
    gives all entries the same score. Lists of fewer than two entries have NaN.
    """
    num, length = where.shape
    lists = np.arange(num)[:, None]
    grades = np.zeros((num, length))
    best = np.where(where, -teacher, np.inf).argsort(axis=1, kind="stable")[:, :num_best]
    grades[lists, best] = np.arange(num_best, 0, -1)[: best.shape[1]]
    grades = np.where(where, grades, 0.0)
    backwards = np.where(where, -student, np.inf)[:, ::-1].argsort(axis=1, kind="stable")
    order = length - 1 - backwards[:, :num_best]
    discounts = 1 / np.log2(np.arange(2, 2 + order.shape[1]))
    ideal = -np.sort(-grades, axis=1)[:, :num_best] @ discounts
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (grades[lists, order] @ discounts) / ideal
    return np.where(where.sum(axis=1) > 1, values, np.nan)
