"""Between the base model and the trained one, or beyond: what is tried, chosen and kept."""

import dataclasses
import json

import numpy as np
import pytest

from ldx.training.checkpoint import Progress, read_progress
from ldx.training.dev_values import DevValues, read_dev_values, write_dev_values
from ldx.training.variants import Tried, average, choose, interpolate, read_tried, write_tried
from ldx.training.verdict import judge


def values(per_query):
    return {str(i): float(x) for i, x in enumerate(per_query)}


def dev_values(per_query):
    return DevValues({}, values(per_query), "synthetic")


def test_parameters_lie_on_the_line():
    base, trained = {"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 1.0])}
    assert interpolate(base, trained, 1.0) is trained
    for alpha, expected in ((0.0, [1, 2]), (0.5, [2, 1.5]), (1.5, [4, 0.5])):
        np.testing.assert_allclose(interpolate(base, trained, alpha)["w"], expected)


def test_an_alpha_must_beat_one_by_a_paired_test():
    rng = np.random.default_rng(0)
    trained = rng.uniform(0.3, 0.7, size=200)
    noise = rng.normal(0, 0.2, size=200)
    better, noisy = trained + 0.02, trained + noise - noise.mean() + 0.005
    tried = {"0.5": values(trained - 0.1), "": values(trained), "1.5": values(noisy)}
    assert choose(tried) == ""
    assert choose(tried | {"1.25": values(better)}) == "1.25"
    assert choose(tried | {"1.25": values(better), "runs": values(better + 0.01)}) == "runs"


def test_what_was_tried_is_kept(tmp_path):
    assert read_tried(tmp_path) == Tried()
    per_query = {"1.5": values([0.5]), "": values([0.25]), "checkpoints": values([0.75])}
    tried = write_tried(tmp_path, per_query, "checkpoints")
    assert tried == Tried({1.0: 0.25, 1.5: 0.5}, {"checkpoints": 0.75}, "checkpoints")
    assert read_tried(tmp_path) == tried
    assert tried.text == (
        "alpha 1 0.2500, alpha 1.5 0.5000, the mean of the last checkpoints 0.7500; the mean of "
        "the last checkpoints is kept"
    )


def test_a_run_that_is_older_than_means_keeps_its_alpha(tmp_path):
    (tmp_path / "alpha.json").write_text('{"chosen": 1.5, "tried": {"1": 0.2, "1.5": 0.3}}')
    assert read_tried(tmp_path) == Tried({1.0: 0.2, 1.5: 0.3}, {}, "1.5")
    progress = dataclasses.asdict(Progress(8, 8, best_step=8)) | {"chosen_alpha": 1.5}
    for key in ("variant", "highest_ndcg"):
        del progress[key]
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    read = read_progress(tmp_path)
    assert (read.kept, read.variant, read.finished) == ("1.5", "1.5", False)


def test_the_mean_of_models():
    models = [{"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 1.0])}, {"w": np.array([2.0, 3.0])}]
    np.testing.assert_allclose(average(models)["w"], [2.0, 2.0])


def test_the_verdict_is_of_what_is_kept(tmp_path):
    write_dev_values(tmp_path, 0, dev_values([0.1] * 50))
    write_dev_values(tmp_path, 8, dev_values([0.2] * 50))
    write_dev_values(tmp_path, 8, dev_values([0.4] * 50), variant="1.5")
    verdict = judge(tmp_path, Progress(8, 8, best_step=8, variant="1.5"))
    assert verdict.trained == pytest.approx(0.4)
    assert "step 8, alpha 1.5" in verdict.text
    assert judge(tmp_path, Progress(8, 8, best_step=8)).trained == pytest.approx(0.2)
    assert read_dev_values(tmp_path, 8)[0]["0"] == 0.2
