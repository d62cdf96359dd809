"""Human judgments in the report: the numbers of results.json, tests, queries that changed."""

import json

import numpy as np
import pytest
import scipy.stats

from ldx.eval.report import CHANGE_NAMES, score_runs
from ldx.report.common import NoData
from ldx.report.human_judgments import changes_section, sentence, table_section
from tests.report.hostile_run import Page, read_csv
from tests.toy import make_dataset


def test_numbers_are_those_of_results_and_scipy(finished):
    results = json.loads((finished / "results.json").read_text())
    data = json.loads((finished / "report" / "data.json").read_text())
    assert data["results"] == results
    rows = read_csv(finished / "report" / "per_query.csv")
    base, trained = (np.array([float(row[x]) for row in rows]) for x in ("base", "trained"))
    assert np.any(base != trained)
    facts = results["trained"]
    expected = scipy.stats.ttest_rel(trained, base).pvalue
    assert facts["nDCG@10_t_test_p_value"] == pytest.approx(expected, rel=1e-9)
    assert facts["nDCG@10"] == pytest.approx(trained.mean())
    assert facts["nDCG@10_difference"] == pytest.approx((trained - base).mean())
    assert facts["nDCG@10_wins"] == (trained > base).sum()
    csv_rows = {
        (row["system"], row["metric"]): row for row in read_csv(finished / "report/results.csv")
    }
    assert len(csv_rows) == 8
    for (system, metric), row in csv_rows.items():
        assert float(row["value"]) == results[system][metric]
        for key in ("low", "high"):
            assert float(row[key]) == results[system][f"{metric}_{key}"]
        for key in CHANGE_NAMES:
            if system == "trained":
                assert float(row[key]) == facts[f"{metric}_{key}"]
            else:
                assert row[key] == ""
    text = Page(finished / "report" / "index.html").text
    for key in ("nDCG@10", "AP@100", "nDCG@10_p_value", "nDCG@10_t_test_p_value"):
        assert f"{facts[key]:.4f}" in text


@pytest.fixture
def outcome():
    """Passage b is relevant to both queries: q1 finds it at once after training, q2 no longer."""
    runs = {
        "base": {"q1": {"a": 1.0, "b": 0.5}, "q2": {"b": 1.0}},
        "trained": {"q1": {"b": 1.0, "a": 0.5}, "q2": {"c": 1.0}},
        "bm25": {"q1": {}, "q2": {"b": 1.0}},
    }
    return score_runs("", make_dataset(), runs, relevance_level=1)


def test_the_sentence_has_the_difference_and_its_tests(outcome):
    text = sentence(outcome)
    base = (1 / np.log2(3) + 1) / 2
    assert text.startswith(f"toy test: nDCG@10 0.5000, base model {base:.4f}; difference -0.3155 [")
    assert text.endswith("(t-test); 2 queries")


def test_the_table_has_differences_of_all_systems_but_the_base(outcome):
    text = table_section([outcome])
    assert text.count("bm25") == text.count("trained") == 1 + 4
    assert text.count(">base<") == 1
    with pytest.raises(NoData, match="No human judgments"):
        table_section([])


def test_queries_that_changed_show_the_best_passages_of_both_models(outcome):
    text = changes_section([outcome], relevance_level=1)
    assert "1 queries won, 1 lost, 0 did not change." in text
    won, lost = text[text.index("Won most") :].split("Lost most")
    assert won.count("relevant (1)") == 2
    assert lost.count("relevant (1)") == 1
    assert "nothing" not in won + lost
