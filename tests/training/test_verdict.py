"""The verdict on a run, from dev values made by hand."""

import pytest
from scipy import stats

from ldx.training.checkpoint import Progress
from ldx.training.dev_values import DevValues, write_dev_values
from ldx.training.verdict import Status, advice_on, judge


def run_of(folder, *differences, step=4):
    base = {f"q{i}": 0.5 for i in range(len(differences))}
    after = {f"q{i}": 0.5 + d for i, d in enumerate(differences)}
    for number, values in ((0, base), (step, after)):
        write_dev_values(folder, number, DevValues({}, values, "human"))
    return judge(folder, Progress(step=8, best_step=step))


@pytest.mark.parametrize(
    ("differences", "status"),
    [
        ([0.1] * 8, Status.BETTER),
        ([-0.1] * 8, Status.WORSE),
        ([0.1, -0.1] * 4, Status.SAME),
        ([0.1] * 5, Status.SAME),  # p = 2 / 2^5 = .0625
        ([0.1] * 6, Status.BETTER),  # p = 2 / 2^6 = .03125
        ([0.0] * 8, Status.SAME),
    ],
)
def test_significance_decides(tmp_path, differences, status):
    verdict = run_of(tmp_path, *differences)
    assert verdict.status == status
    wins = sum(d > 0 for d in differences)
    moved = sum(d != 0 for d in differences)
    if wins in (0, moved) and moved:
        assert verdict.p_value == pytest.approx(stats.binomtest(wins, moved).pvalue)
    for part in (f"{len(differences)} human queries", "0.5000 ->", f"p {verdict.p_value:.4f}"):
        assert part in verdict.text


def test_who_judged_is_told(tmp_path):
    told = "human queries judged by a language model"
    write_dev_values(tmp_path, 0, DevValues({}, {"q0": 0.5}, told))
    verdict = judge(tmp_path, Progress(step=0, best_step=0))
    assert f"1 {told}" in verdict.text
    assert verdict.judged_by == told


@pytest.mark.parametrize(("rule", "told"), [("ndcg", "higher dev nDCG@10"), ("loss", "lower dev")])
def test_a_run_that_keeps_the_base_model_is_no_worse(tmp_path, rule, told):
    write_dev_values(tmp_path, 4, DevValues({}, {"q0": 0.75, "q1": 0.0}, "human"))
    write_dev_values(
        tmp_path, 12, DevValues({}, {"q0": 1.0, "q1": 1.0}, "human")
    )  # of a killed run
    run_of(tmp_path, 0.0, 0.0, step=0)
    verdict = judge(tmp_path, Progress(step=8, best_step=0), rule)
    assert verdict.status == Status.BASE_KEPT
    assert f"no step had a {told}" in verdict.text
    assert "dev nDCG@10 0.5000, at most 0.3750 after training, at step 4;" in verdict.text
    assert (verdict.base, verdict.trained, verdict.p_value) == (0.5, 0.5, 1.0)


def test_a_tie_keeps_the_base_model(tmp_path):
    """A step that is as good as the base model is not worse."""
    write_dev_values(tmp_path, 4, DevValues({}, {"q0": 0.5, "q1": 0.5}, "human"))
    verdict = run_of(tmp_path, 0.0, 0.0, step=0)
    assert verdict.status == Status.BASE_KEPT
    assert "at most 0.5000 after training, at step 4;" in verdict.text


def test_a_saturated_dev_is_told_with_what_would_help():
    base = {"a": 1.0, "b": 0.92}
    assert advice_on({"a": 1.0, "b": 0.8}, "synthetic queries", "ndcg") == ""
    advice = advice_on(base, "synthetic queries", "ndcg")
    assert "nDCG@10 is 0.9600" in advice
    assert "people judge" in advice
    assert "select_by=loss" in advice
    for judged_by in ("human queries judged by the teacher", "queries: 3 human judged by people"):
        assert "people judge" in advice_on(base, judged_by, "ndcg")
    advice = advice_on(base, "human queries judged by people", "loss")
    assert "people judge" not in advice
    assert "select_by" not in advice


def test_the_verdict_has_the_advice(tmp_path):
    for step, value in ((0, 0.97), (4, 0.98)):
        write_dev_values(tmp_path, step, DevValues({}, {"q0": value}, "human"))
    verdict = judge(tmp_path, Progress(step=4, best_step=4), "loss")
    assert "dev is saturated" in verdict.advice[0]


def test_a_run_that_evaluated_nothing_else_yet_is_not_judged(tmp_path):
    verdict = run_of(tmp_path, 0.0, 0.0, step=0)
    assert verdict.status == Status.UNKNOWN
