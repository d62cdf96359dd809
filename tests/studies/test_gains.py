"""Statistics of studies: Holm's correction, averages over seeds, and tables of hand-made runs."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from configs import base
from configs.studies import common
from ldx.studies.declare import expand, read_study
from ldx.studies.gains import Gains, compare_gains, gain_against_base, holm, mean_over_datasets
from ldx.studies.results import CellResult, summarize
from ldx.studies.tables import as_csv, as_text, label, tables


def test_holm_by_hand():
    """Three tests: 3 x .01, then 2 x .03, then the larger of 1 x .04 and what came before."""
    np.testing.assert_allclose(holm([0.03, 0.01, 0.04]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_rejects_what_the_closed_test_of_bonferroni_rejects():
    """Holm is the closure of Bonferroni: the largest adjusted p over all subsets with a test."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.uniform(size=5) ** 3
        for i, ours in enumerate(holm(p.tolist())):
            subsets = (
                [*others, i]
                for size in range(5)
                for others in itertools.combinations([j for j in range(5) if j != i], size)
            )
            closed = max(min(1.0, len(s) * p[s].min()) for s in subsets)
            assert ours == pytest.approx(closed)


def test_seeds_are_averaged_before_testing():
    """Two seeds of equal gains tell no more than one."""
    gains = {f"q{i}": value for i, value in enumerate([0.3, 0.1, -0.1, 0.2, 0.0, 0.4])}
    once, twice = Gains({0: gains}), Gains({0: gains, 1: gains})
    assert gain_against_base(once) == gain_against_base(twice)
    assert once.spread is None
    assert twice.spread == 0.0
    shifted = {query: value + 0.1 for query, value in gains.items()}
    both = Gains({0: gains, 1: shifted})
    assert both.over_seeds() == pytest.approx({q: v + 0.05 for q, v in gains.items()})
    assert both.spread == pytest.approx(np.std([0.15, 0.25], ddof=1))


def test_gains_are_compared_over_common_seeds_and_queries():
    ours = Gains({0: {"a": 0.5, "b": 0.1, "c": 9.0}, 1: {"a": 9.0, "b": 9.0}})
    baseline = Gains({0: {"a": 0.2, "b": 0.2}, 2: {"a": 9.0}})
    comparison = compare_gains(ours, baseline)
    assert comparison is not None
    assert comparison.difference == pytest.approx((0.3 - 0.1) / 2)
    assert (comparison.wins, comparison.losses) == (1, 1)
    assert compare_gains(Gains({0: {"a": 1.0}}), Gains({1: {"a": 1.0}})) is None
    assert compare_gains(Gains({0: {"a": 1.0}}), Gains({0: {"b": 1.0}})) is None


def test_the_p_value_is_that_of_a_paired_permutation_test():
    rng = np.random.default_rng(1)
    gains = {f"q{i}": value for i, value in enumerate(rng.normal(0.3, 0.6, size=11).tolist())}
    values = np.array(list(gains.values()))
    theirs = stats.permutation_test(
        (values, np.zeros(11)),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert gain_against_base(Gains({0: gains})).p_value == pytest.approx(theirs.pvalue)


def test_datasets_count_alike():
    assert mean_over_datasets({"a": [0.1, 0.1, 0.1], "b": [0.4]}) == pytest.approx(0.25)


DATASETS: dict[str, dict] = {"one": {}, "two": {}}
LOSSES: dict[str, dict] = {"kl": {}, "nce": {}}


def make_summary(missing, base_kept=(), list_source="teacher"):
    """KL gains 0.1 on every query of both; InfoNCE loses 0.1 on one, gains 0.02 on the other.

    Cells in `base_kept` gain nothing.
    """
    experiment = base.get_config()
    experiment.prep.list_source = list_source
    axes = {"dataset": DATASETS, "loss": LOSSES}
    config = common.make_study("toy", "Does it?", experiment, axes, size="cpu")
    config.study.sample.num_queries = 30
    config.study.seeds = (0, 1)
    config.study.baseline = {"loss": "kl"}
    study = read_study(config.to_dict())
    expected = {
        ("one", "kl"): 0.1, ("two", "kl"): 0.1, ("one", "nce"): -0.1, ("two", "nce"): 0.02
    }  # fmt: skip
    results = []
    for cell in expand(study):
        if cell.name in missing:
            continue
        mean, best_step = expected[cell.values["dataset"], cell.values["loss"]], 8
        if cell.name in base_kept:
            mean, best_step = 0.0, 0
        gains = {f"q{i}": mean for i in range(20)}
        facts = {
            **cell.values, "seed": cell.seed, "best_step": best_step, "last_step": 16,
            "dev_base": 0.5, "dev_trained": 0.6, "dev_queries": "synthetic",
            "dev_verdict": "better" if best_step else "base model kept",
            "base": 0.4, "trained": 0.4 + mean, "gain": mean,
            "low": mean, "high": mean, "p_value": 0.001, "t_test_p_value": 0.002,
            "num_passages": 500, "num_lists": 90 + cell.seed, "folder": cell.name,
        }  # fmt: skip
        dev = {"title": {"l0": mean}, "keywords": {"l1": 0.0, "l2": mean}}
        settings = {"model": "toy", "steps": 16 + cell.seed, "learning rate": 2e-5}
        results.append(CellResult(cell, facts, settings, gains, dev))
    return summarize(study, results, dict.fromkeys(missing, "exit code 2"))


@pytest.fixture(scope="module")
def summary():
    return make_summary(["two--nce--seed1"])


def test_a_summary_of_hand_made_runs(summary):
    configurations = {(row["dataset"], row["loss"]): row for row in summary["configurations"]}
    assert configurations["one", "nce"]["gain"] == pytest.approx(-0.1)
    assert configurations["one", "nce"]["num_seeds"] == 2
    assert configurations["two", "nce"]["num_seeds"] == 1
    values = {(row["axis"], row["value"]): row for row in summary["values"]}
    # Dataset two has half the seeds, and counts as much.
    assert values["loss", "nce"]["gain"] == pytest.approx((-0.1 + 0.02) / 2)
    assert values["loss", "kl"]["trained"] == pytest.approx(0.5)
    differences = {(row["dataset"], row["loss"]): row for row in summary["comparisons"]}
    assert differences.keys() == {("one", "nce"), ("two", "nce")}
    assert differences["one", "nce"]["difference"] == pytest.approx(-0.2)
    assert differences["two", "nce"]["difference"] == pytest.approx(-0.08)
    # Of 10,000 random signs none is as extreme; two comparisons were made.
    assert differences["one", "nce"]["p_holm"] == pytest.approx(2 / 10_001)
    types = {
        (row["dataset"], row["loss"], row["query_type"]): row for row in summary["query_types"]
    }
    assert types["one", "kl", "title"]["gain"] == pytest.approx(0.1)
    assert types["one", "kl", "keywords"]["gain"] == pytest.approx(0.05)
    assert json.loads(json.dumps(summary)) == summary


def test_values_are_compared_where_all_else_is_equal():
    """Two has no InfoNCE, so its KL says nothing of the losses; one has both seeds of either."""
    summary = make_summary(["two--nce--seed0", "two--nce--seed1"])
    values = {(row["axis"], row["value"]): row for row in summary["values"]}
    assert [values["loss", name]["num_cells"] for name in LOSSES] == [2, 2]
    assert values["loss", "nce"]["gain"] == pytest.approx(-0.1)
    assert values["dataset", "one"]["gain"] == pytest.approx(0.1)  # KL's, as of two
    (note,) = [table.note for table in tables(summary) if table.title == "By value"]
    assert note.endswith("Left out for that: 2 cells for dataset, 2 cells for loss.")
    alone = make_summary([f"{d}--nce--seed{s}" for d in DATASETS for s in (0, 1)])["values"]
    assert [row["value"] for row in alone if row["axis"] == "loss"] == ["kl"]


def test_tables(summary):
    text = as_text(summary)
    assert (
        "| one     | kl   |           20 | 0.4000 |  0.5000 | +0.1000 [+0.1000, +0.1000] |" in text
    )
    settings = [
        "size: cpu", "model: toy", "steps: 16 to 17, by cell", "learning rate: 2e-05",
        "sample: num_queries 30", "seeds: 0, 1"
    ]  # fmt: skip
    assert "".join(f"- {line}\n" for line in settings) in text
    assert "two--nce--seed1: exit code 2" in text
    made = {table.title: table for table in tables(summary)}
    assert list(made) == [
        "Trained against untrained", "By value", "Against the baseline", "By query type", "Cells"
    ]  # fmt: skip
    for table in made.values():
        assert all(len(row) == len(table.head) for row in table.rows)
        if table.title != "By value":  # which tests nothing
            randomisation = table.head.index("p, randomisation")
            assert table.head[randomisation + 1] == "p, t-test"
    assert made["Cells"].rows[0][-2:] == ["0.0010", "0.0020"]
    assert [row[2:5] for row in made["Cells"].rows[:2]] == [["0", "500", "90"], ["1", "500", "91"]]
    outcome = {tuple(row[:2]): row[-1] for row in made["Against the baseline"].rows}
    assert outcome == {("one", "nce"): "worse", ("two", "nce"): "worse"}
    lines = as_csv(summary).splitlines()
    assert len(lines) == 1 + 7
    assert lines[0].startswith("dataset,loss,seed,best_step")


def test_one_seed_is_told_to_be_one(summary):
    one = {**summary, "seeds": [0]}
    for made, count in ((tables(summary), 0), (tables(one), 1)):
        for table in made:
            tests = table.title in ("Trained against untrained", "Against the baseline")
            assert table.note.count("There is one seed") == count * tests, table.title


def test_a_kept_base_model_is_told():
    """It has no gain, which is no finding about training."""
    names = [f"one--{loss}--seed{seed}" for loss in LOSSES for seed in (0, 1)]
    summary = make_summary([], [*names, "two--nce--seed0"])
    made = {table.title: table for table in tables(summary)}
    main = made["Trained against untrained"]
    outcome = {tuple(row[:2]): row[main.head.index("against base")] for row in main.rows}
    assert outcome == {
        ("one", "kl"): "base kept",
        ("one", "nce"): "base kept",
        ("two", "kl"): "better",
        ("two", "nce"): "better (base kept in 1 of 2 seeds)",
    }
    assert '"base kept": by dev no step was better than the untrained model' in main.note
    assert [row[-1] for row in made["Against the baseline"].rows] == [
        "base kept by both",
        "worse (base kept in 1 of 2 seeds, by the baseline in 0)",
    ]
    assert [row[-1] for row in made["By value"].rows] == ["4", "1", "2", "3"]
    assert {row[-1] for row in made["By query type"].rows if row[0] == "one"} == {"base kept"}
    cells = made["Cells"]
    assert cells.rows[0][cells.head.index("dev verdict")] == "base model kept"
    assert label(summary["configurations"][0], ["loss"]) == "kl (base kept)"
    assert label(summary["configurations"][3], ["loss"]) == "nce"


def test_who_judged_dev_queries_is_told():
    for source, judge in (
        ("teacher", "by the teacher"),
        ("graded", "by the grades in their lists"),
    ):
        made = {table.title: table for table in tables(make_summary([], list_source=source))}
        assert f"judged {judge}" in made["By query type"].note
        assert ("teacher" in made["By query type"].note) == (source == "teacher")
