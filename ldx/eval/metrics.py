"""Runs and their scores: trec_eval's measures by ir-measures, and paired comparisons.

A run holds scores by query id and passage id. As in trec_eval, passages are ranked by their scores
as float32, descending, and those with equal scores by id, descending; ranks in a file are ignored.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldx.common.errors import UserError
from ldx.common.files import atomic_write
from ldx.common.lines import Lines

Run = dict[str, dict[str, float]]

METRIC = "nDCG@10"
SIGNIFICANT = 0.05
"""A difference whose p-value is under this is told as one."""
"""The metric that everything is judged by."""
METRICS = (METRIC, "R@100", "RR@10", "AP@100")
DEPTH = 100
"""The number of results of each query in a run: as many as the metrics look at."""
RUN_LINE = "query-id Q0 passage-id rank score tag"
CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
MAX_EXACT_QUERIES = 14
RESAMPLED_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Scores:
    """Metrics of a run.

    Attributes:
      mean: means over all judged queries, by metric.
      per_query: values by metric, then by query id.
    """

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Comparison:
    """The difference of run a from run b in one metric, over the same queries.

    Attributes:
      difference: the mean of a - b.
      low: the lower end of its 95% bootstrap interval.
      high: the upper end of that interval.
      p_value: the two-sided p of the paired sign-flip permutation (randomisation) test.
      t_test_p_value: the two-sided p of the paired t-test.
      wins: the number of queries where a is better.
      losses: the number of queries where b is better.
      ties: the number of queries where both are equal.
    """

    difference: float
    low: float
    high: float
    p_value: float
    t_test_p_value: float
    wins: int
    losses: int
    ties: int


def rank(scores: Mapping[str, float]) -> list[str]:
    """The passages of one query in trec_eval's order."""
    by_id = sorted(scores, key=lambda doc_id: doc_id.encode(), reverse=True)
    values = np.array([scores[doc_id] for doc_id in by_id], np.float32)
    return [by_id[i] for i in np.argsort(-values, kind="stable")]


def score_run(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    *,
    metrics: Sequence[str] = METRICS,
    relevance_level: int = 1,
) -> Scores:
    """Score a run as trec_eval does, over all queries of the qrels.

    A judged query without results counts 0. nDCG has linear gains; negative grades have no gain.

    Args:
      qrels: the grades by query id and passage id.
      run: the scores by query id and passage id.
      metrics: names such as nDCG@10, R@100, RR@10, AP@100.
      relevance_level: the least grade that is relevant to R, RR and AP; nDCG sees all grades.
    """
    import ir_measures

    grades = {query: {doc: max(g, 0) for doc, g in docs.items()} for query, docs in qrels.items()}
    results = {query: dict(run[query]) for query in grades if run.get(query)}
    names: dict[ir_measures.Measure, list[str]] = {}
    for name in metrics:
        # trec_eval has no cut-off for RR: a first hit below the cut-off is set to 0 further down.
        measure = ir_measures.parse_measure("RR" if name.startswith("RR@") else name)
        measure = measure if measure.NAME == "nDCG" else measure(rel=relevance_level)
        names.setdefault(measure, []).append(name)
    per_query = {name: dict.fromkeys(grades, 0.0) for name in metrics}
    if results:
        for value in ir_measures.pytrec_eval.iter_calc(list(names), grades, results):
            for name in names[value.measure]:
                per_query[name][value.query_id] = value.value
    for name in metrics:
        if name.startswith("RR@"):
            least = 1.0 / int(name.removeprefix("RR@"))
            per_query[name] = {q: v if v >= least else 0.0 for q, v in per_query[name].items()}
    mean = {name: math.fsum(v.values()) / max(len(v), 1) for name, v in per_query.items()}
    return Scores(mean, per_query)


def read_run(path: str | Path) -> Run:
    """Read a TREC run file, gzip or not, with tabs or blanks between columns.

    Raises:
      UserError: there are bad lines, which are named: wrong columns, a score that is not a finite
        number, a passage that stands twice.
    """
    lines = Lines(path)
    run: Run = {}
    for number, line in lines:
        fields = line.rstrip("\r\n").split("\t") if line.count("\t") == 5 else line.split()
        if len(fields) != 6:
            lines.bad(number, f"{len(fields)} column(s), wanted 6")
            continue
        query_id, _, doc_id, _, text, _ = fields
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            lines.bad(number, f"score {text!r} is not a finite number")
        elif doc_id in (docs := run.setdefault(query_id, {})):
            lines.bad(number, f"query {query_id!r} has passage {doc_id!r} twice")
        else:
            docs[doc_id] = score
    lines.finish(RUN_LINE)
    if not run:
        raise UserError(f"{path} is empty; wanted a run, a line each: {RUN_LINE}")
    return run


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], tag: str = "ldx") -> None:
    """Write a TREC run file atomically; scoring it gives exactly the metrics of `run`."""
    ids = [*run, *(doc_id for scores in run.values() for doc_id in scores)]
    # Where an id has a blank in it, tabs separate the columns.
    separator = "\t" if any(len(x.split()) != 1 for x in ids) else " "
    with atomic_write(path) as file:
        for query_id, scores in run.items():
            for place, doc_id in enumerate(rank(scores), 1):
                fields = (query_id, "Q0", doc_id, str(place), repr(float(scores[doc_id])), tag)
                file.write(separator.join(fields) + "\n")


def compare(
    per_query_a: Mapping[str, float], per_query_b: Mapping[str, float], seed: int = 0
) -> Comparison:
    """Compare two runs by one metric, query by query.

    The test flips the signs of the differences: in all 2^n ways for up to 14 queries that differ,
    else in 10,000 random ways, to which the observed one is added.

    Args:
      per_query_a: the values of run a by query id.
      per_query_b: the values of run b for the same queries.
      seed: the seed of the resampling.
    """
    assert per_query_a.keys() == per_query_b.keys(), "both runs must be scored on the same queries"
    differences = np.array([per_query_a[q] - per_query_b[q] for q in per_query_a], float)
    low, high = confidence_interval(differences, seed)
    return Comparison(
        difference=float(differences.mean()) if len(differences) else 0.0,
        low=low,
        high=high,
        p_value=_sign_flip_p_value(differences, seed),
        t_test_p_value=_t_test_p_value(differences),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )


def confidence_interval(values: Iterable[float], seed: int = 0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a mean."""
    array = np.fromiter(values, float)
    if not len(array):
        return 0.0, 0.0
    rng = np.random.default_rng([seed, 0])
    at_once = max(1, RESAMPLED_AT_ONCE // len(array))
    means = [
        array[rng.integers(len(array), size=(min(at_once, NUM_RESAMPLES - start), len(array)))]
        .mean(axis=1)
        for start in range(0, NUM_RESAMPLES, at_once)
    ]  # fmt: skip
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _t_test_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of Student's paired t-test; 1 for a single query or equal runs."""
    from scipy.special import stdtr

    num = len(differences)
    if num < 2 or not differences.any():
        return 1.0
    error = differences.std(ddof=1) / math.sqrt(num)
    t = abs(differences.mean()) / error if error else math.inf
    return float(2 * stdtr(num - 1, -t))


def _sign_flip_p_value(differences: np.ndarray, seed: int) -> float:
    """Two-sided p-value of the hypothesis that the signs of the differences are chance."""
    changes = differences[differences != 0]
    if not len(changes):
        return 1.0
    # Sums that are equal but for rounding are as extreme as the observed one.
    least = abs(changes.sum()) * (1 - 1e-12)
    if len(changes) <= MAX_EXACT_QUERIES:
        patterns = np.arange(2 ** len(changes))[:, None] >> np.arange(len(changes)) & 1
        sums = (1 - 2 * patterns) @ changes
        return float((np.abs(sums) >= least).mean())
    rng = np.random.default_rng([seed, 1])
    at_once = max(1, RESAMPLED_AT_ONCE // len(changes))
    num_extreme = 0
    for start in range(0, NUM_RESAMPLES, at_once):
        size = (min(at_once, NUM_RESAMPLES - start), len(changes))
        signs = 1.0 - 2.0 * rng.integers(2, size=size, dtype=np.int8)
        num_extreme += int((np.abs(signs @ changes) >= least).sum())
    return (num_extreme + 1) / (NUM_RESAMPLES + 1)
