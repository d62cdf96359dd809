"""Real processes on loopback: the same losses as one, kills, stops, and other numbers of hosts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ldx.train
from ldx.common.errors import UserError
from ldx.parallel import processes
from tests import toy
from tests.helpers import call_command


@pytest.fixture(scope="module")
def config(tiny_bert, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    sources = {
        name: {"records": str(toy.make_records(folder / name, num_passages=n, num_train=n))}
        for name, n in (("one", 40), ("two", 24))
    }
    return toy.write_config(
        folder / "config.py",
        model={"path": str(tiny_bert)},
        data={"sources": sources},
        train={
            "num_steps": 16,
            "eval_every": 8,
            "microbatch_tokens": 64,
            "bucket_lengths": (16, 32),
            "activation_bytes": 0,
        },
        eval={"split": ""},
    )


class Job:
    """The processes of one run."""

    def __init__(
        self,
        config: Path,
        workdir: Path,
        num_processes: int,
        *flags: str,
        own_flags: Mapping[int, list[str]] | None = None,
    ):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "ldx.train", f"--config={config}"]
        command += [f"--workdir={workdir}", *flags]
        self.processes = []
        for number in range(num_processes):
            joined = [f"--coordinator_address={address}", f"--num_processes={num_processes}"]
            joined.append(f"--process_id={number}")
            log = open(workdir.with_name(f"{workdir.name}.{number}.log"), "w+")  # noqa: SIM115
            one = [*command, *(joined if num_processes > 1 else [])]
            one += (own_flags or {}).get(number, [])
            env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(one, stdout=log, stderr=subprocess.STDOUT, env=env)
            self.processes.append((process, log))

    def log(self, number: int) -> str:
        """What a process has printed."""
        _, file = self.processes[number]
        return Path(file.name).read_text()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Wait until something holds; fail with the first process's log."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log(0)[-3000:]
            time.sleep(0.1)

    def wait_for_step(self, step: int) -> None:
        """Wait until process 0 has done a step."""
        self.wait_for(lambda: f"step {step}/" in self.log(0))

    def ended(self) -> list[int]:
        """Exit codes, after all have ended."""
        self.wait_for(lambda: all(p.poll() is not None for p, _ in self.processes))
        return [p.returncode for p, _ in self.processes]

    def close(self) -> None:
        """End what still runs."""
        for process, log in self.processes:
            process.kill()
            process.wait()
            log.close()


@pytest.fixture
def start():
    jobs = []

    def start_job(*args: Any, **settings: Any) -> Job:
        jobs.append(Job(*args, **settings))
        return jobs[-1]

    yield start_job
    for job in jobs:
        job.close()


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> list[dict]:
    """The numbers of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    job = Job(config, workdir, 1)
    codes = job.ended()
    assert codes == [0], job.log(0)
    job.close()
    return metrics(workdir)


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def check_same(ours: list[dict], theirs: list[dict]) -> None:
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in mine.items():
            if isinstance(value, str):  # the source of a step
                assert value == other[name]
                continue
            # Adam turns rounding of near-zero gradients into steps, so equality ends at 1e-3.
            np.testing.assert_allclose(value, other[name], rtol=1e-3, err_msg=f"{name} {mine}")


# test_other_numbers_of_processes_go_on_exactly sees the same in one run.
SLOW = pytest.mark.slow


@SLOW
@pytest.mark.parametrize(("num_processes", "flags"), [(2, ["--config.train.fsdp=2"]), (4, [])])
def test_processes_train_to_the_losses_of_one(config, alone, start, tmp_path, num_processes, flags):
    job = start(config, tmp_path / "run", num_processes, *flags)
    codes = job.ended()
    assert codes == [0] * num_processes, job.log(0) + job.log(1)
    check_same(metrics(tmp_path / "run"), alone)
    assert f"in {num_processes} process(es)" in job.log(0)


@SLOW
def test_processes_train_the_query_tower_as_one(config, start, tmp_path):
    """Passages are stored by one process, and all read them."""
    flag = "--config.train.towers=query"
    for name, num_processes in (("one", 1), ("two", 2)):
        job = start(config, tmp_path / name, num_processes, flag)
        assert job.ended() == [0] * num_processes, job.log(0)
    check_same(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    stored = [np.load(tmp_path / n / "passages/one/passages.npy") for n in ("one", "two")]
    np.testing.assert_allclose(*stored, atol=1e-6)


@SLOW
def test_a_stopped_run_goes_on_exactly(config, alone, start, tmp_path):
    """SIGTERM to one of two processes in the middle of training, then as many go on."""
    job = start(config, tmp_path / "run", 2)
    job.wait_for_step(4)
    job.processes[1][0].send_signal(signal.SIGTERM)
    assert job.ended() == [128 + signal.SIGTERM] * 2, job.log(0)
    step = saved_step(tmp_path / "run")
    assert 4 <= step < 16
    job = start(config, tmp_path / "run", 2)
    assert job.ended() == [0] * 2, job.log(0)
    assert f"going on from step {step}" in job.log(1)
    check_same(metrics(tmp_path / "run"), alone)


def test_processes_of_different_settings_are_refused(config, start, tmp_path):
    """Two real processes, of which one has another seed."""
    job = start(config, tmp_path / "run", 2, own_flags={1: ["--config.seed=5"]})
    assert job.ended() == [2, 2], job.log(0)
    for number in range(2):
        assert "not the same in all processes" in job.log(number)
        assert "Traceback" not in job.log(number)


def saved_step(workdir: Path) -> int:
    path = workdir / "progress.json"
    return json.loads(path.read_text())["step"] if path.exists() else 0


def test_other_numbers_of_processes_go_on_exactly(config, alone, start, tmp_path):
    """SIGKILL to one of two that share a copy of the parameters, then SIGTERM to one of three, then
    one comes to the end.
    """
    workdir, every_step = tmp_path / "run", "--config.checkpoint.every_minutes=0.0"
    job = start(config, workdir, 2, every_step, "--config.train.fsdp=2")
    job.wait_for(lambda: saved_step(workdir) >= 4)
    job.processes[1][0].kill()
    killed = time.monotonic()
    codes = job.ended()
    assert time.monotonic() - killed < 60
    assert codes[0] != 0
    log = job.log(0)
    assert "lost another process" in log or "another task died" in log, log[-3000:]
    assert "Traceback" not in log

    job, before = start(config, workdir, 3, every_step), saved_step(workdir)
    job.wait_for_step(before + 2)
    assert f"going on from step {before}" in job.log(0)
    job.processes[1][0].send_signal(signal.SIGTERM)
    assert job.ended() == [128 + signal.SIGTERM] * 3, job.log(0)
    step = saved_step(workdir)
    assert before < step < 16
    assert all(f"step {step} is saved" in job.log(number) for number in range(3))

    job = start(config, workdir, 1)
    assert job.ended() == [0], job.log(0)
    assert f"going on from step {step}" in job.log(0)
    check_same(metrics(workdir), alone)


def test_different_plans_end_the_run(monkeypatch):
    """What the processes tell each other, as it would come from two of them."""
    from ldx.parallel.mesh import make_mesh

    agreement = processes.Agreement(make_mesh(2))
    agreement._message = 6, np.array([[1, 2, 0, 1], [1, 2, 0, 0]], np.uint32)  # type: ignore[assignment]
    agreement.read()
    assert agreement.save_is_due
    agreement._message = 7, np.array([[1, 2, 0, 1], [1, 3, 0, 0]], np.uint32)  # type: ignore[assignment]
    with pytest.raises(UserError, match="different batches for step 8"):
        agreement.read()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "--coordinator_address is missing"),
        (
            ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=2"],
            "numbered from 0 to 1",
        ),
    ],
)
def test_incomplete_flags_are_refused(config, tmp_path, flags, message):
    result = call_command(ldx.train, f"--config={config}", f"--workdir={tmp_path}", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DEADLINE_EXCEEDED: Barrier timed out"),
        ValueError("invalid literal for int() with base 10: 'x'"),
        ConnectionError("metadata.google.internal"),
    ],
)
def test_a_host_of_a_pod_that_does_not_find_the_others_does_not_go_on(monkeypatch, error):
    def initialize(**_):
        raise error

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(UserError, match=r"did not find each other .* every host of the pod"):
        processes._join_pod()


def test_a_tpu_without_other_hosts_trains_alone():
    """What JAX says where there is no cluster: it is asked, in a process of its own."""
    program = (
        "import jax._src.clusters as clusters; clusters.ClusterEnv._cluster_types = []\n"
        "from ldx.parallel import processes; processes._join_pod(); print('alone')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "alone\n", result.stderr
