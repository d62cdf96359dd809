"""Tests of ldx/training/loop.py: when the line of a step appears, and which time is the step's."""

import types

import pytest

from configs import base
from ldx.common.interrupt import StopRequest
from ldx.parallel.mesh import make_mesh
from ldx.training import loop
from ldx.training.checkpoint import Progress
from ldx.training.dev_values import DevValues
from ldx.training.settings import resolve

SECONDS_OF_A_STEP = 10.0


class Clock:
    """A time that passes only where a test lets it."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Result:
    """A step that the device is done with `num_looks` looks after it was started."""

    def __init__(self, plan, num_looks):
        self.plan, self._num_looks = plan, num_looks

    def is_ready(self):
        self._num_looks -= 1
        return self._num_looks < 0

    def metrics(self):
        return {"total": 1.0}


class Agreement:
    """Processes that always agree."""

    save_is_due = False

    def tell(self, *facts):
        pass

    def read(self):
        pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs four steps with evaluations after two and four; gives (event, step, seconds)."""

    def run(*, is_cpu, num_looks=0):
        events, clock = [], Clock()
        config = base.get_config().to_dict()
        config["train"] |= {"num_steps": 4, "eval_every": 2}
        config["logging"]["tensorboard"] = False
        settings = resolve(config, 48)
        plans = [types.SimpleNamespace(digest=bytes(32), number=n) for n in range(1, 5)]

        def step(state, plan, between):
            events.append(("start", plan.number, 0.0))
            for _ in range(3):  # micro-batches
                clock.now += SECONDS_OF_A_STEP / 3
                between()
            return state, Result(plan, num_looks)

        def evaluate(self, is_last):
            clock.now += 1000
            self.progress.evaluated_step = self.progress.step
            self.progress.stop_reason = "done" if is_last else ""

        def note(self, number, plan, metrics, seconds, waited):
            events.append(("line", number, seconds))

        monkeypatch.setattr(loop, "time", clock)
        monkeypatch.setattr(loop.jax, "default_backend", lambda: "cpu" if is_cpu else "gpu")
        monkeypatch.setattr(loop, "read_ahead", lambda batches, start: iter(plans[start:]))
        monkeypatch.setattr(loop.StepLog, "step", note)
        monkeypatch.setattr(loop.TrainingLoop, "_evaluate", evaluate)
        batches = types.SimpleNamespace(sources=[None], steps_per_epoch=4)
        parts = types.SimpleNamespace(state=0, step=step, batches=batches, mesh=make_mesh())
        checkpoints = types.SimpleNamespace(save=lambda state, progress: None)
        loop.TrainingLoop(settings, tmp_path, parts, checkpoints, Progress(), StopRequest()).train()
        return events

    return run


def test_on_a_cpu_a_line_stands_before_the_next_step_begins(run):
    events = run(is_cpu=True)
    assert [event[:2] for event in events] == [
        (name, number) for number in range(1, 5) for name in ("start", "line")
    ]


def test_on_a_device_a_line_appears_at_the_first_look_after_its_step(run):
    events = run(is_cpu=False)
    assert [event[:2] for event in events] == [
        *(("start", 1), ("start", 2), ("line", 1), ("line", 2)),
        *(("start", 3), ("start", 4), ("line", 3), ("line", 4)),
    ]
    # Step 1 is seen to be done after the first of the three micro-batches of step 2.
    assert events[2][2] == pytest.approx(SECONDS_OF_A_STEP * 4 / 3)


def test_what_is_not_done_when_the_next_step_is_started_is_waited_for(run):
    events = run(is_cpu=False, num_looks=9)
    assert events[2][:2] == ("line", 1)
    assert events[2][2] == pytest.approx(SECONDS_OF_A_STEP * 2)  # after all of step 2


def test_several_processes_write_between_two_steps_alone(run, monkeypatch):
    monkeypatch.setattr(loop.jax, "process_count", lambda: 2)
    monkeypatch.setattr(loop.processes, "Agreement", lambda mesh: Agreement())
    assert run(is_cpu=False)[2][2] == pytest.approx(SECONDS_OF_A_STEP * 2)


def test_a_saturated_dev_is_told_before_training(caplog):
    settings = resolve(base.get_config().to_dict(), 48)
    run = types.SimpleNamespace(settings=settings)
    loop.TrainingLoop._warn_of_ceiling(run, DevValues({}, {"a": 0.5}, "synthetic queries"))
    assert not caplog.messages
    loop.TrainingLoop._warn_of_ceiling(run, DevValues({}, {"a": 1.0}, "synthetic queries"))
    assert "dev is saturated" in caplog.text


def test_the_time_of_a_line_is_its_steps(run):
    seconds = [event[2] for event in run(is_cpu=True) if event[0] == "line"]
    assert seconds == pytest.approx([SECONDS_OF_A_STEP] * 4)  # and not the evaluation's 1000


def test_patience_compares_with_the_highest_ndcg_whatever_is_kept():
    """The kept step has the lowest loss; nDCG@10 that only beats that step's is no improvement."""
    config = base.get_config().to_dict()
    config["train"] |= {"select_by": "loss", "stop_on": "ndcg", "patience": 2, "eval_every": 1}
    training = loop.TrainingLoop.__new__(loop.TrainingLoop)
    training.settings, training.progress = resolve(config, 4800), Progress()
    for step, (total, ndcg) in enumerate([(3.0, 0.5), (2.0, 0.2), (2.5, 0.3)]):
        training.progress.step = step
        training._note_evaluation({"dev/total": total, "dev/nDCG@10": ndcg}, is_last=False)
    assert (training.progress.best_step, training.progress.best_ndcg) == (1, 0.2)
    assert training.progress.highest_ndcg == 0.5
    assert "nDCG@10 did not improve in 2" in training.progress.stop_reason
