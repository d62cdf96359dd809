"""Jobs of a study: what is left of them when it is stopped at once."""

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from ldx.common.interrupt import Interrupted, StopRequest
from ldx.studies import jobs

# As data_prep.run: a job that starts a process of its own. Neither answers SIGTERM.
JOB = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder, lock = pathlib.Path(sys.argv[1]), int(sys.argv[2])
stage = subprocess.Popen(["sleep", "600"], pass_fds=(lock,))
(folder / "stage.tmp").write_text(str(stage.pid))
(folder / "stage.tmp").rename(folder / "stage")
time.sleep(600)
"""


class TwiceStopped(StopRequest):
    """Ctrl-C once the job has started its process, and again while the study waits for it."""

    def __init__(self, started: Path):
        super().__init__()
        self._started = started

    def check(self) -> None:
        if self._started.exists():
            self.signum = signal.SIGINT
            raise Interrupted(signal.SIGINT)


def test_a_second_stop_leaves_no_process_of_a_process(tmp_path, monkeypatch):
    stop = TwiceStopped(tmp_path / "stage")
    sleep = jobs.time.sleep

    def interrupted_sleep(seconds: float) -> None:
        if stop.signum is not None:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(jobs.time, "sleep", interrupted_sleep)
    reader, lock = os.pipe()
    job = jobs.Job("job", "data", [sys.executable, "-c", JOB, str(tmp_path), str(lock)], tmp_path)
    ended: list[int] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            jobs.JobRunner([job], 1, stop, lock).run()
        os.close(lock)  # ours
        # The pipe ends when nobody holds its other end any more.
        ended, _, _ = select.select([reader], [], [], 20)
        assert ended, "the stage goes on"
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
        if not ended:
            os.kill(int((tmp_path / "stage").read_text()), signal.SIGKILL)
