"""A signal is noted once and answered at a safe place; a second one stops at once."""

import os
import signal

import pytest

from ldx.common.interrupt import Interrupted, StopRequest


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_waits_for_check(signum):
    before = signal.getsignal(signum)
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted) as error:
            stop.check()
        assert error.value.signum == signum
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) is before
