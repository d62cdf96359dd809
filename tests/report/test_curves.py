"""Times of steps from TensorBoard's files, and lines that are thinned."""

import numpy as np

from ldx.report.curves import MAX_POINTS, alpha_section, step_seconds, thin
from ldx.training.metrics_writer import MetricsWriter
from ldx.training.variants import Tried


def write_times(workdir, steps, seconds):
    writer = MetricsWriter(workdir)
    for step in steps:
        writer.write_extra(step, {"seconds_per_step": seconds, "other": 9.0})
    writer.close()


def test_times_of_a_run_that_was_killed_and_went_on(tmp_path):
    write_times(tmp_path, range(1, 5), 2.0)
    (first,) = (tmp_path / "tensorboard").iterdir()
    first.write_bytes(first.read_bytes()[:-7])  # the last record is cut short
    first = first.rename(first.with_name("events.out.tfevents.0000000001.first"))
    write_times(tmp_path, range(3, 6), 3.0)
    assert step_seconds(tmp_path) == [(1, 2.0), (2, 2.0), (3, 3.0), (4, 3.0), (5, 3.0)]
    for path in (tmp_path / "tensorboard").iterdir():
        path.unlink()
    assert step_seconds(tmp_path) == []


def test_thinning_keeps_the_mean_and_the_last_step():
    points = [(step, float(step % 7)) for step in range(1, 20 * MAX_POINTS + 1)]
    thinned = thin(points)
    assert len(thinned) == MAX_POINTS
    assert thinned[-1][0] == points[-1][0]
    np.testing.assert_allclose(
        np.mean([value for _, value in thinned]), np.mean([value for _, value in points])
    )
    assert thin(points[:50]) == points[:50]


def test_alphas_are_plotted_with_the_base_model_at_zero():
    tried = Tried({1.0: 0.5, 1.5: 0.6, 0.5: 0.45}, {"runs": 0.55}, "1.5")
    html = str(alpha_section(tried, 0.4, "nDCG@10"))
    assert "kept: alpha 1.5" in html
    assert "the mean of this and other runs 0.5500" in html
    assert html.count("<svg") == 1
    assert str(alpha_section(Tried(), 0.4, "nDCG@10")) == ""
