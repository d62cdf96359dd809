"""Tests of data_prep/engines/ray.py, on a real Ray of this machine."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from absl import logging

from data_prep.engines.ray import MAX_DEATHS, RayEngine
from data_prep.engines.ray_cluster import start_ray
from data_prep.engines.shards import Made, Shard
from data_prep.pipeline.workspace import open_workspace
from data_prep.teachers.scores import load_scores, score_paths
from ldx.common.errors import UserError
from tests.data_prep.teacher_models import make_bert
from tests.data_prep.toy import make_collection, make_config, run_stages


@pytest.fixture(scope="module")
def cluster():
    """The address of a Ray that is started here, once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        start_ray("")
    import ray

    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    # Workers of Ray cannot import this file; what it defines is sent to them as it is.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield address
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()


@pytest.fixture
def engine(cluster):
    return RayEngine(workers=2)


@pytest.fixture
def warnings(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: told.append(text % args))
    return told


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


class DiesOnce:
    """A worker whose process is killed, with a shard half done, the first time it comes to two."""

    def __init__(self, make_worker, marker):
        self._worker, self._marker, self._calls = make_worker(), marker, 0

    def __call__(self, payload):
        made = self._worker(payload)
        self._calls += 1
        if self._calls == 2:
            with contextlib.suppress(FileExistsError):
                self._marker.touch(exist_ok=False)
                kill_oneself()
        return made


class KillingEngine:
    """Ray's, with a worker that is killed in the middle."""

    def __init__(self, marker, workers):
        self._marker, self._workers = marker, workers

    def run(self, make_worker, shards, *, num_workers):
        make = functools.partial(DiesOnce, make_worker, self._marker)
        yield from RayEngine(workers=self._workers).run(make, shards, num_workers=num_workers)


def test_stages_leave_what_the_local_engine_leaves(cluster, tiny_bert, tmp_path, warnings):
    config = make_config(make_collection(tmp_path / "toy"), tiny_bert)
    config.prep.query_types = ("sentence", "title")
    config.prep.shard_size = 12
    config.prep.candidate_depth = 8
    config.prep.teachers = {
        "bert": {"kind": "cross_encoder", "model": str(make_bert(tmp_path / "bert", 1))}
    }
    config.prep.teachers.bert.max_length = 128
    local = run_stages(config, tmp_path / "local", ["corpus"])
    shutil.copytree(local.workdir, tmp_path / "ray")
    run_stages(config, local.workdir, ["generate_queries", "mine", "score"])

    ray = open_workspace(config, tmp_path / "ray", KillingEngine(tmp_path / "killed-generating", 2))
    run_on(ray, "generate_queries")
    assert names(ray.prep / "answers") == names(local.prep / "answers")  # digests of the content
    assert len(names(ray.prep / "answers")) == 10
    queries = [each.prep / "queries.jsonl" for each in (local, ray)]
    assert queries[0].read_text() == queries[1].read_text()

    run_stages(config, ray.workdir, ["mine"])
    ray = open_workspace(config, ray.workdir, KillingEngine(tmp_path / "killed-scoring", 1))
    run_on(ray, "score")
    wanted, found = score_paths(local)["bert"], score_paths(ray)["bert"]
    assert found.keys() == wanted.keys()
    assert len(wanted) >= 8
    for name, path in wanted.items():
        scores = load_scores(path)
        assert np.nanstd(scores) > 0.01
        np.testing.assert_allclose(load_scores(found[name]), scores, atol=1e-5)

    assert (tmp_path / "killed-generating").is_file()
    assert (tmp_path / "killed-scoring").is_file()
    about_shards = [text for text in warnings if "shard" in text]
    assert len(about_shards) == 2
    assert all("made again" in text for text in about_shards)


def run_on(workspace, name):
    import importlib

    importlib.import_module(f"data_prep.{name}").STAGE.run(workspace)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def shards_of(values, built=None):
    """Shards whose payload is one value; `built` counts the payloads."""

    def payload(value):
        if built is not None:
            built.append(value)
        return {"value": value}

    return [Shard(str(v), "key", 1, functools.partial(payload, v)) for v in values]


def worker_of(make):
    """A maker of workers that make the content of `make(value)`, as JSON."""
    return lambda: lambda payload: Made(json.dumps(make(payload["value"])).encode())


def run(engine, make_worker, values, num_workers=1):
    done = engine.run(make_worker, shards_of(values), num_workers=num_workers)
    return {shard.name: json.loads(made.content) for shard, made in done}


def test_payloads_are_built_as_they_are_needed(engine):
    built = []
    done = engine.run(worker_of(lambda value: value), shards_of(range(30), built), num_workers=1)
    assert not built
    for count, (shard, made) in enumerate(done, 1):
        assert json.loads(made.content) == int(shard.name)
        assert len(built) <= count + 4  # two under way, two ready for the next
    assert count == len(built) == 30


def test_a_client_stays_here_with_its_threads(engine):
    """Each waits until all three are under way."""
    barrier = threading.Barrier(3)

    def where(value):
        barrier.wait(60)
        return os.getpid()

    found = run(engine, worker_of(where), range(6), num_workers=3)
    assert set(found.values()) == {os.getpid()}


def test_mistakes_of_the_user_come_back_as_they_are(engine):
    def cannot_start():
        raise UserError("no such model")

    def refuses(value):
        raise UserError(f"{value}: no such text")

    for make_worker, message in [
        (cannot_start, "no such model"),
        (worker_of(refuses), "7: no such text"),
    ]:
        with pytest.raises(UserError) as caught:
            run(engine, make_worker, [7])
        assert str(caught.value) == message


def test_mistakes_of_the_program_keep_their_traceback(engine):
    with pytest.raises(ZeroDivisionError, match="in make_worker_fail"):
        run(engine, worker_of(make_worker_fail), [0])


def make_worker_fail(value):
    return 1 // value


def test_a_shard_that_kills_every_worker_is_named(engine, warnings):
    def die(value):
        return value if value < 3 else kill_oneself()

    done = engine.run(worker_of(die), shards_of(range(4)), num_workers=1)
    assert {next(done)[0].name for _ in range(3)} == {"0", "1", "2"}
    with pytest.raises(UserError, match=rf"{MAX_DEATHS} workers died.* shard 3:"):
        next(done)
    assert len(warnings) == MAX_DEATHS - 1


def test_workers_that_do_not_start(cluster):
    with pytest.raises(UserError, match="do not start:"):
        run(RayEngine(workers=1), kill_oneself, [0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "--ray_workers=-1: wanted at least 0"),
        ({"gpus": -1.0}, "--ray_gpus=-1.0"),
        ({"cpus": 0.0}, "--ray_cpus=0.0"),
        ({"address": "ray://head:10001"}, "on a machine of the cluster"),
    ],
)
def test_flags_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        RayEngine(**settings)


def test_a_worker_that_no_machine_has_room_for(cluster):
    with pytest.raises(UserError, match=r"no room for a worker .*--ray_cpus=1000"):
        run(RayEngine(cpus=1000.0), worker_of(lambda value: value), [0])


def test_a_ray_of_its_own_is_never_open_to_other_machines():
    """Also where something imported Ray before, as vLLM does, and it was too late to tell it."""
    program = "import ray; from data_prep.engines.ray_cluster import start_ray; start_ray('')"
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert done.returncode != 0
    assert "open to other machines" in done.stderr


SLEEPS = """
import functools, os, pathlib, signal, sys, time
from data_prep.engines.ray import RayEngine
from data_prep.engines.shards import Shard
from ldx.common import cli

def make_worker():
    def worker(payload):
        pathlib.Path(payload["path"]).write_text(str(os.getpid()))
        time.sleep(600)
    return worker

def main(argv):
    shard = Shard("sleeps", "key", 1, lambda: {"path": sys.argv[2]})
    list(RayEngine(sys.argv[1], workers=1).run(make_worker, [shard], num_workers=1))

# A shell's background jobs, such as these tests may be, have Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
cli._guarded = lambda main, argv, guarded=cli._guarded: guarded(lambda _: main(argv), argv[:1])
cli.run(main)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_workers(cluster, tmp_path, signum):
    pid_file = tmp_path / "pid"
    command = [sys.executable, "-c", SLEEPS, cluster, str(pid_file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        wait_for(lambda: pid_file.is_file() and pid_file.read_text())
        worker = int(pid_file.read_text())
        assert is_running(worker)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    assert errors.splitlines() == ["stopped"]
    assert process.returncode == 128 + signum
    wait_for(lambda: not is_running(worker))


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
