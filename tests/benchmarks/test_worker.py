"""An object in a process of its own: what it returns, and how its end is told."""

import mmap
import os

import pytest

from tests.benchmarks.worker import Worker, held_memory, peak_memory, reset_peak

MODULE = "tests.benchmarks.test_worker"


class Counter:
    """What the tests call."""

    def __init__(self, start=0):
        if start < 0:
            raise ValueError("negative start")
        self.number = start

    def add(self, number):
        self.number += number
        return self.number

    def pid(self):
        return os.getpid()

    def end(self):
        os._exit(7)


def test_methods_run_in_another_process():
    with Worker(f"{MODULE}:Counter", start=3) as worker:
        assert worker.call("add", 4) == 7
        assert worker.call("add", number=1) == 8
        assert worker.call("pid") != os.getpid()
        worker.close()


def test_failures_are_told():
    failed = r"Counter failed:(?s:.*)negative start"
    with Worker(f"{MODULE}:Counter", start=-1) as one, pytest.raises(RuntimeError, match=failed):
        one.call("pid")
    with Worker(f"{MODULE}:Counter") as worker, pytest.raises(RuntimeError, match="exit code 7"):
        worker.call("end")


def test_memory_is_that_since_the_reset():
    resting = reset_peak()
    # New pages of the system, each of them written; the heap might give old ones.
    with mmap.mmap(-1, 64 * 2**20) as block:
        block.write(b"x" * (64 * 2**20))
        held = held_memory()
    if held is None:
        pytest.skip("the system tells no memory")
    assert held - resting > 32 * 2**20
    assert peak_memory() - resting > 32 * 2**20
