"""Metrics against trec_eval's published values and their formulas; the test against scipy's."""

import gzip
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from ldx.common.errors import UserError
from ldx.eval.beir import read_qrels
from ldx.eval.metrics import (
    METRICS,
    compare,
    confidence_interval,
    rank,
    read_run,
    score_run,
    write_run,
)

KNOWN_NAMES = {
    "nDCG@10": "ndcg_cut_10",
    "AP@100": "map_cut_100",
    "R@100": "recall_100",
    "R@20": "recall_20",
}


def test_equals_published_trec_eval_values(data_dir: Path) -> None:
    folder = data_dir / "msmarco_dl19"
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    known = json.loads((folder / "runs" / "known_metrics.json").read_text())
    assert len(known) == 10
    for name, values in known.items():
        run = read_run(folder / "runs" / name)
        mean = score_run(qrels, run, metrics=tuple(KNOWN_NAMES)).mean
        assert {KNOWN_NAMES[k]: round(v, 4) for k, v in mean.items()} == values, name


def reference(grades: dict[str, int], ranking: list[str], level: int) -> dict[str, float]:
    """The formulas, written out."""
    gains = [max(grades.get(doc, 0), 0) for doc in ranking]
    ideal = sorted((max(g, 0) for g in grades.values()), reverse=True)

    def dcg(values: list[int]) -> float:
        return sum(g / math.log2(i + 2) for i, g in enumerate(values[:10]))

    hits = [grades.get(doc, 0) >= level for doc in ranking]
    num_relevant = sum(g >= level for g in grades.values())
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(min(100, len(hits))) if hits[i]]
    first = next((i + 1 for i, hit in enumerate(hits) if hit), math.inf)
    return {
        "nDCG@10": dcg(gains) / dcg(ideal) if any(ideal) else 0.0,
        "R@100": sum(hits[:100]) / num_relevant if num_relevant else 0.0,
        "RR@10": 1 / first if first <= 10 else 0.0,
        "AP@100": sum(precisions) / num_relevant if num_relevant else 0.0,
    }


@pytest.mark.parametrize("level", [1, 2, 3])
def test_equals_the_formulas_with_grades_ties_and_holes(level: int) -> None:
    rng = np.random.default_rng(level)
    docs = [f"d{i}" for i in range(150)]
    qrels, run = {}, {}
    for query in map(str, range(30)):
        judged = rng.choice(docs, 40, replace=False)
        qrels[query] = {str(doc): int(rng.integers(-1, 4)) for doc in judged}
        qrels[query]["absent"] = 3
        # Few different scores, so that most of them are ties.
        run[query] = {d: float(rng.integers(8)) for d in rng.permutation(docs)[:130].tolist()}
    qrels["no results"] = {"d1": 1}
    qrels["no relevant"] = {"d1": 0}
    run["no relevant"] = {"d1": 1.0}
    run["not judged"] = {"d1": 1.0}
    scores = score_run(qrels, run, relevance_level=level)
    for query, grades in qrels.items():
        results = run.get(query, {})
        # trec_eval: by score, descending, then by passage id, descending.
        ranking = sorted(results, key=lambda doc: (results[doc], doc), reverse=True)
        expected = reference(grades, ranking, level)
        got = {name: scores.per_query[name][query] for name in METRICS}
        assert got == pytest.approx(expected, abs=1e-12)
    for name in METRICS:
        assert scores.per_query[name].keys() == qrels.keys()
        assert scores.mean[name] == pytest.approx(np.mean(list(scores.per_query[name].values())))


def test_scores_that_are_equal_as_float32_are_ties() -> None:
    run = {"q": {"a": 1.0 + 1e-9, "b": 1.0}}
    assert rank(run["q"]) == ["b", "a"]
    assert score_run({"q": {"a": 1}}, run).mean["RR@10"] == 0.5
    run = {"q": {"a": 1.0 + 1e-6, "b": 1.0}}
    assert rank(run["q"]) == ["a", "b"]
    assert score_run({"q": {"a": 1}}, run).mean["RR@10"] == 1.0


def test_rr_is_cut_off() -> None:
    run = {"q": {f"d{i:02d}": -float(i) for i in range(20)}}
    for place, value in ((10, 0.1), (11, 0.0)):
        assert score_run({"q": {f"d{place - 1:02d}": 1}}, run).mean["RR@10"] == value
    both = score_run({"q": {"d06": 1}}, run, metrics=("RR@5", "RR@10")).mean
    assert both == {"RR@5": 0.0, "RR@10": 1 / 7}


def test_an_empty_run_counts_0() -> None:
    assert score_run({"q": {"a": 1}}, {}).mean == dict.fromkeys(METRICS, 0.0)
    assert score_run({"q": {"a": 1}}, {"q": {}}).mean == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize("blank", ["", " "])
def test_a_written_run_scores_exactly_the_same(tmp_path: Path, blank: str) -> None:
    rng = np.random.default_rng(0)
    docs = [f"d{blank}é{i}" for i in range(200)]
    run = {
        str(q): {d: float(np.float32(s)) for d, s in zip(docs, rng.normal(size=200), strict=True)}
        for q in range(20)
    }
    for scores in run.values():
        scores |= {d: 0.1 for d in docs[:50]} | {d: 1e-30 for d in docs[50:60]}
    qrels = {q: {d: int(rng.integers(4)) for d in docs[::3]} for q in run}
    path = tmp_path / "run.trec"
    write_run(path, run)
    assert read_run(path) == run
    assert score_run(qrels, read_run(path)) == score_run(qrels, run)
    if not blank:
        columns = [line.split(" ") for line in path.read_text().splitlines()[:200]]
        assert [c[3] for c in columns] == [str(i) for i in range(1, 201)]
        assert [c[2] for c in columns] == rank(run["0"])
    packed = tmp_path / "run.trec.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_run(packed) == run


def test_bad_run_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    good = "q Q0 d1 1 0.5 x\n"
    bad = ["q Q0 d2 1 0.5", "q Q0 d3 1 nan x", "q Q0 d4 1 inf x", "q Q0 d5 1 one x", good.strip()]
    path.write_text(good + "\n".join(bad) + "\n")
    with pytest.raises(UserError) as caught:
        read_run(path)
    text = str(caught.value)
    problems = [
        ":2: 5 column(s)",
        ":3: score 'nan'",
        ":4: score 'inf'",
        ":5: score 'one'",
        ":6: query 'q' has passage 'd1' twice",
    ]
    for problem in problems:
        assert f"{path}{problem}" in text
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_run(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path / "missing.trec")


def by_query(values) -> dict[str, float]:
    return {str(i): float(value) for i, value in enumerate(values)}


def test_the_test_equals_scipys_exact_one() -> None:
    rng = np.random.default_rng(0)
    for size in (3, 8, 12):
        a, b = rng.normal(0.5, 1, size).round(1), rng.normal(0, 1, size).round(1)
        exact = scipy.stats.permutation_test(
            (a - b,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        got = compare(by_query(a), by_query(b))
        assert got.p_value == pytest.approx(min(exact.pvalue, 1.0), abs=1e-12)
        assert got.difference == pytest.approx((a - b).mean())


def test_the_sampled_test_is_near_the_exact_one() -> None:
    # 16 equal differences of one sign: |sum| >= observed in 2 of 2^16 flips.
    signs = np.array([1] * 12 + [-1] * 4, float)
    sums = [abs(sum(s)) for s in itertools.product((1, -1), repeat=16)]
    exact = np.mean([s >= signs.sum() for s in sums])
    got = compare(by_query(signs), by_query(np.zeros(16)), seed=3)
    assert got.p_value == pytest.approx(exact, abs=0.01)
    assert (got.wins, got.losses, got.ties) == (12, 4, 0)


def test_equal_runs_and_shifted_runs() -> None:
    values = np.random.default_rng(1).random(100)
    same = compare(by_query(values), by_query(values))
    assert (same.p_value, same.difference, same.low, same.high, same.ties) == (1.0, 0, 0, 0, 100)
    shifted = compare(by_query(values + 0.1), by_query(values))
    assert shifted.p_value < 1e-3
    assert shifted.wins == 100
    assert shifted.low == pytest.approx(0.1)
    assert compare(by_query(values), by_query(values + 0.1)).difference == pytest.approx(-0.1)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    zeros = by_query(np.zeros(30))
    p_values = [compare(by_query(rng.normal(size=30)), zeros, seed=i).p_value for i in range(100)]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01


def test_the_interval_holds_the_mean_and_depends_only_on_the_seed() -> None:
    values = np.random.default_rng(3).normal(1.0, 1.0, 400)
    low, high = confidence_interval(values, seed=0)
    assert low < values.mean() < high
    # The normal approximation, at this size: +- 1.96 standard errors.
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert confidence_interval(values, seed=0) == (low, high)
    assert confidence_interval(values, seed=1) != (low, high)
    assert confidence_interval([0.5]) == (0.5, 0.5)
    a, b = by_query(values), by_query(values * 0)
    assert compare(a, b, seed=5) == compare(a, b, seed=5)


def test_the_t_test_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for num in (2, 3, 30, 500):
        a, b = rng.uniform(size=(2, num))
        a[: num // 3] = b[: num // 3]  # ties
        expected = scipy.stats.ttest_rel(a, b).pvalue
        got = compare(by_query(a), by_query(b)).t_test_p_value
        assert got == pytest.approx(expected, rel=1e-9), num
    same = by_query(np.ones(5))
    assert compare(same, same).t_test_p_value == 1.0
    assert compare({"q": 1.0}, {"q": 0.0}).t_test_p_value == 1.0
    assert compare(same, by_query(np.zeros(5))).t_test_p_value == 0.0  # as scipy says
