"""Scores of runs: the same names in every file, what is written, how tables are aligned."""

import json
from pathlib import Path

import pytest

from ldx.common.errors import UserError
from ldx.eval.metrics import METRICS, read_run, score_run
from ldx.eval.report import (
    facts_by_system,
    format_table,
    make_report,
    read_results,
    score_runs,
    write_report,
)
from tests.toy import make_dataset


def test_the_report_is_flat_and_the_run_scores_the_same(tmp_path: Path) -> None:
    dataset = make_dataset()
    run = {"q1": {"b": 1.0, "a": 0.5}, "q2": {"a": 1.0, "b": 1.0}}
    baseline = {"q1": {"a": 1.0, "b": 0.5}}
    report = make_report(dataset, run, {"index": "exact"}, relevance_level=1, baseline=baseline)
    write_report(tmp_path / "out", run, report)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "metrics.json",
        "per_query.tsv",
        "run.trec",
    ]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert all(isinstance(value, str | int | float) for value in metrics.values())
    again = score_run(dataset.qrels, read_run(tmp_path / "out" / "run.trec"))
    assert {name: metrics[name] for name in METRICS} == again.mean
    assert (metrics["num_queries"], metrics["num_passages"]) == (2, 4)
    assert (metrics["split"], metrics["relevance_level"], metrics["index"]) == ("test", 1, "exact")
    assert metrics["RR@10"] == 1.0
    assert metrics["RR@10_baseline"] == 0.25
    assert metrics["RR@10_difference"] == 0.75
    assert (metrics["RR@10_wins"], metrics["RR@10_losses"], metrics["RR@10_ties"]) == (2, 0, 0)
    assert metrics["RR@10_p_value"] == 0.5
    rows = [line.split("\t") for line in (tmp_path / "out/per_query.tsv").read_text().splitlines()]
    assert rows[0] == ["query_id", *METRICS]
    for query_id, *values in rows[1:]:
        assert [float(v) for v in values] == [again.per_query[n][query_id] for n in METRICS]


def test_the_table_is_aligned() -> None:
    dataset = make_dataset()
    run = {"q1": {"b": 1.0}}
    lines = format_table("metric", make_report(dataset, run).results).splitlines()
    assert len(lines) == 1 + len(METRICS)
    results = make_report(dataset, run, baseline={"q2": {"b": 1.0}}).results
    lines = format_table("metric", results).splitlines()
    assert {line.index("1/1/0") for line in lines[1:]} == {lines[0].index("win/loss/tie")}
    assert "baseline" in lines[0]


def test_a_base_among_the_rows_has_no_difference() -> None:
    runs = {"base": {"q1": {"b": 1.0}}, "trained": {"q2": {"b": 1.0}}}
    outcome = score_runs("", make_dataset(), runs, relevance_level=1)
    rows = {name: results["nDCG@10"] for name, results in outcome.results.items()}
    head, base, trained = format_table("nDCG@10", rows).splitlines()
    assert "baseline" not in head
    assert base.split() == ["base", "0.5000", "[0.0000,", "1.0000]"]
    assert trained.index("1/1/0") == head.index("win/loss/tie")


def test_both_files_name_their_numbers_alike() -> None:
    dataset = make_dataset()
    base, trained = {"q1": {"b": 1.0}}, {"q1": {"b": 1.0}, "q2": {"a": 1.0, "b": 0.5}}
    runs = {"base": base, "trained": trained}
    systems = facts_by_system([score_runs("", dataset, runs, relevance_level=1)])
    report = make_report(dataset, trained, baseline=base)
    assert systems["trained"].items() <= report.metrics.items()
    counts = {"num_queries", "num_passages", "split", "relevance_level"}
    assert report.metrics.keys() - systems["trained"].keys() == counts
    assert systems["base"].keys() == {
        f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")
    }
    several = facts_by_system([score_runs("a", dataset, runs, relevance_level=1)])
    assert several == {f"a/{name}": facts for name, facts in systems.items()}


def test_results_of_older_runs_are_read(tmp_path: Path) -> None:
    assert read_results(tmp_path) == {}
    path = tmp_path / "results.json"
    older = {"nDCG@10": 0.5, "nDCG@10_difference_interval": [0.1, 0.2], "p_value": 0.01}
    path.write_text(json.dumps({"trained": older}))
    expected = {"nDCG@10_difference_low": 0.1, "nDCG@10_difference_high": 0.2}
    assert read_results(tmp_path) == {"trained": {"nDCG@10": 0.5, **expected, "p_value": 0.01}}
    path.write_text("[]")
    with pytest.raises(UserError, match="not the results"):
        read_results(tmp_path)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_report(tmp_path / "out", {}, make_report(make_dataset(), {}))
