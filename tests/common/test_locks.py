"""Folders that one command works in at a time, whatever kills it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ldx.common.errors import UserError
from ldx.common.locks import INHERITED, hold_folder

HOLDER = """
import subprocess, sys, time
from ldx.common.locks import hold_folder
with hold_folder(sys.argv[1], "ldx.train") as lock:
    left = subprocess.Popen(["sleep", "600"], pass_fds=[lock] if sys.argv[2] == "leave" else [])
    print(left.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["end", "leave"])
def test_a_folder_is_held_until_all_that_work_in_it_are_dead(tmp_path, how):
    run = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(run), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        left = int(process.stdout.readline())
        with pytest.raises(UserError, match=rf"use by ldx\.train, process {process.pid} on "):
            hold_folder(run, "data_prep.run").__enter__()
        process.kill()
    if how == "leave":
        with pytest.raises(UserError, match="or by what it left running"):
            hold_folder(run, "data_prep.run").__enter__()
    os.kill(left, signal.SIGKILL)
    with hold_folder(run, "data_prep.run", wait=True):  # until the system has noticed
        assert (run / ".lock").read_text().startswith("data_prep.run, process")


def test_a_folder_that_failed_is_taken_by_who_waited(tmp_path):
    """What fails at once removes the new folder, with the file that another one waits for."""
    taken = []

    def wait():
        with hold_folder(tmp_path / "run", "ldx.study", wait=True):
            taken.append((tmp_path / "run" / ".lock").read_text())

    waiting = threading.Thread(target=wait)

    def fail():
        with hold_folder(tmp_path / "run", "ldx.train"):
            waiting.start()
            time.sleep(0.2)
            raise UserError("a mistake")

    with pytest.raises(UserError, match="a mistake"):
        fail()
    waiting.join(10)
    assert taken[0].startswith("ldx.study, process")


def test_what_a_holder_starts_may_work_in_the_folder(tmp_path, monkeypatch):
    with hold_folder(tmp_path / "a", "data_prep.run") as lock:
        assert lock >= 0
        monkeypatch.setenv(INHERITED, str(tmp_path / "a"))
        with hold_folder(tmp_path / "a", "data_prep.mine") as inherited:
            assert inherited == -1
        with hold_folder(tmp_path / "b", "ldx.train") as other:
            assert other >= 0
