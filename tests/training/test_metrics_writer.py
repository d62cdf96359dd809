"""metrics.jsonl holds what the inputs determine, and goes on from where a run is known to be."""

import json

import pytest

from ldx.common.errors import UserError
from ldx.training.metrics_writer import MetricsWriter, read_metrics


def test_a_resumed_file_is_cut_to_what_counts(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(1, {"total": 0.1})
    num_bytes = writer.flush()
    writer.write(2, {"total": 0.2})
    writer.write_extra(2, {"seconds_per_step": 3.0})
    writer.close()
    again = MetricsWriter(tmp_path, num_bytes=num_bytes, step=1, tensorboard=False)
    again.write(2, {"total": 0.3})
    again.close()
    assert read_metrics(tmp_path) == [{"step": 1, "total": 0.1}, {"step": 2, "total": 0.3}]
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert first == json.dumps({"step": 1, "total": 0.1})


def test_a_file_that_is_cut_to_nothing_counts_from_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("left by a run that was killed\n")
    writer = MetricsWriter(tmp_path, tensorboard=False)
    assert writer.flush() == 0
    writer.close()


def test_a_shorter_file_than_the_run_wrote_is_an_error(tmp_path):
    with pytest.raises(UserError, match="has 0 bytes, but the run wrote 7"):
        MetricsWriter(tmp_path, num_bytes=7, tensorboard=False)


def test_tensorboard_gets_numbers_and_times(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(tmp_path)
    writer.write(1, {"dev/nDCG@10": 0.5})
    writer.write_extra(1, {"seconds_per_step": 3.0})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"dev/nDCG_at_10", "seconds_per_step"}
    (value,) = events.Scalars("dev/nDCG_at_10")
    assert (value.step, value.value) == (1, 0.5)


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install '.\[wandb\]'"):
        MetricsWriter(tmp_path, tensorboard=False, wandb_project="mine")
