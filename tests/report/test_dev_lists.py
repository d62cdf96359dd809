"""Dev lists in the report: the losses that training saw, and the order of student and teacher."""

import json

import numpy as np
import pytest

from tests.report.hostile_run import Page, read_csv


def test_dev_lists_have_the_losses_that_training_saw(finished):
    rows = read_csv(finished / "report" / "dev_lists.csv")
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    dev = {line["step"]: line for line in lines if "dev/nDCG@10" in line}
    best = json.loads((finished / "progress.json").read_text())["best_step"]
    assert best > 0
    assert len(rows) == 12
    for system, step in (("base", 0), ("trained", best)):
        mean = np.mean([float(row[f"listwise_kl_{system}"]) for row in rows])
        assert mean == pytest.approx(dev[step]["dev/listwise_kl"], rel=1e-3)
        # The dev pool has room for the lists' passages alone, so both pools are the same.
        ndcg = np.mean([float(row[f"nDCG@10_{system}"]) for row in rows])
        assert ndcg == pytest.approx(dev[step]["dev/nDCG@10"], abs=1e-6)
    steps = read_csv(finished / "report" / "steps.csv")
    assert [int(row["step"]) for row in steps] == list(range(1, 7))


def test_how_far_the_order_moved_towards_the_teachers(finished):
    """By numbers of every list; on the page, and in the data."""
    rows = read_csv(finished / "report" / "dev_lists.csv")
    data = json.loads((finished / "report" / "data.json").read_text())["dev_lists"]["toy"]
    text = Page(finished / "report" / "index.html").text
    shown = {
        "teacher_ndcg": "nDCG@10 against the teacher's ten best",
        "kendall_tau": "Kendall's tau-b",
    }
    for key, name in shown.items():
        base, trained = (
            np.array([float(row[f"{key}_{system}"]) for row in rows])
            for system in ("base", "trained")
        )
        assert np.any(base != trained)
        assert data["all"]["base"][key] == pytest.approx(base.mean())
        assert data["all"]["trained"][key] == pytest.approx(trained.mean())
        assert f"{name}{base.mean():.3f}{trained.mean():.3f}" in text
        assert f"{(trained - base).mean():+.4f}" in text
