"""How long a step took."""

from ldx.training.step_log import StepClock


def test_a_step_ends_when_it_is_done_not_when_it_is_read():
    times = iter([0.0, 10.0, 25.0, 31.0, 40.0, 52.0])
    clock = StepClock(lambda: next(times))
    clock.look(False)
    clock.look(True)  # at 10
    clock.look(True)  # later: nobody asks for the time
    assert clock.lap() == 10
    assert clock.lap() == 15  # not seen to be done before it was read, at 25
    clock.look(True)  # at 31
    assert clock.lap() == 6
    clock.restart()  # at 40
    assert clock.lap() == 12
