"""The command data_prep.run: kills, stops, mistakes, the dry run."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.pipeline.workspace import open_workspace
from data_prep.preflight.costs import costs_table
from data_prep.preflight.dry_run import estimate
from data_prep.run import STAGES, prepare
from ldx.common.errors import UserError
from ldx.records.manifest import Manifest
from tests.data_prep.toy import make_collection, make_config, run_stages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return make_collection(tmp_path_factory.mktemp("prep") / "toy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("config.prep.list_sise = 8", "did you mean prep.list_size"),
        ("config.model.poolin = 'cls'", "did you mean pooling"),
        ("config.prep.list_size = 0", "config.prep.list_size=0"),
        ("config.prep.dev_fraction = 1.0", "config.prep.dev_fraction=1.0"),
        ("config.data.passage_template = '{titel}'", "passage_template='{titel}'"),
        ("config.seed = -1", "config.seed=-1"),
    ],
)
def test_bad_settings_of_a_config_file(tmp_path, change, message):
    text = f"""
from configs import base
from ml_collections import ConfigDict

def get_config():
    config = base.get_config().unlock()
    {change}
    return config
"""
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(str(tmp_path / "config.py"), tmp_path / "work")


@pytest.fixture
def command(collection, tiny_bert, tmp_path):
    """Start `python -m data_prep.run` on the toy collection in a process group of its own."""
    config = tmp_path / "config.py"

    def start(*overrides: str, python: dict[str, str] | None = None) -> subprocess.Popen:
        made = make_config(collection, tiny_bert).unlock()
        made.prep.python.update(python or {})
        config.write_text(
            "import json\nfrom ml_collections import ConfigDict\n\n"
            f"def get_config():\n    return ConfigDict(json.loads({made.to_json()!r}))\n"
        )
        arguments = [f"--config={config}", f"--workdir={tmp_path / 'work'}", *overrides]
        return subprocess.Popen(
            [sys.executable, "-m", "data_prep.run", *arguments],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start, tmp_path / "work"


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ({"mine": "/nowhere/python"}, "prep.python.mine='/nowhere/python'"),
        ({"mines": sys.executable}, "prep.python.mines: there is no such stage"),
    ],
)
def test_a_python_that_is_not_there(collection, tiny_bert, tmp_path, python, message):
    config = make_config(collection, tiny_bert).unlock()
    config.prep.python.update(python)
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(config, tmp_path / "work")


def test_the_command_goes_on_after_a_kill_and_stages_may_have_their_own_python(
    command, collection, tiny_bert, tmp_path, capsys
):
    start, workdir = command
    process = start()
    while not (workdir / "prep" / "generate_queries.json").is_file():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (workdir / "records" / "manifest.json").exists()
    named = tmp_path / "python"
    named.write_text(f'#!/bin/sh\ntouch {tmp_path}/used; exec {sys.executable} "$@"\n')
    named.chmod(0o755)
    out, _ = finish(start(python={"mine": str(named)}))
    assert (tmp_path / "used").exists()
    lines = out.splitlines()
    assert lines[:2] == ["corpus: up to date", "generate_queries: up to date"]
    assert Manifest.read(workdir / "records").num_passages == 60
    # What other processes made is up to date here too.
    capsys.readouterr()
    run_stages(make_config(collection, tiny_bert), workdir)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}: up to date" for name in STAGES]


def test_a_terminated_command_ends_its_stage(command):
    start, workdir = command
    process = start()
    while not (workdir / "prep").is_dir():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)


def test_ctrl_c_says_once_how_it_goes_on(command):
    start, workdir = command
    # A shell's background jobs, such as these tests may be, have Ctrl-C ignored, and hand that on.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start()
    signal.signal(signal.SIGINT, previous)
    while not (workdir / "prep").is_dir():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.count("stopped\nthe same command goes on\n") == 1
    assert "Traceback" not in err


def test_the_command_fails_with_exit_code_2(command):
    start, workdir = command
    process = start("--config.data.root=/nowhere")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "/nowhere" in err
    assert "Traceback" not in err
    assert not workdir.exists()
    process = start("--config.prep.list_sice=3")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "prep.list_size?" in err


def test_a_dry_run_says_what_it_costs_and_writes_nothing(command):
    start, workdir = command
    out, _ = finish(start("--dry-run"))
    table = {" ".join(line.split()[1:-1]): line for line in out.splitlines()}
    assert any("extractive queries" in line and "171" in line for line in table.values())
    assert any("pairs of hybrid" in line and "3,420" in line for line in table.values())
    assert "passages embedded by student" in out
    assert "on this machine" in out
    assert not workdir.exists()


def test_a_dry_run_counts_without_the_model(command):
    start, workdir = command
    process = start("--dry-run", f"--config.model.path={workdir / 'absent'}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2  # as the real run would end
    assert "absent: no such folder" in err
    assert any("pairs of hybrid" in line and "3,420" in line for line in out.splitlines())
    assert "no time for passages embedded by student" in out


def test_a_dry_run_goes_on_without_what_this_machine_lacks(collection, tiny_bert, tmp_path):
    config = make_config(collection, tiny_bert)
    config.prep.queries = "llm"
    config.prep.llm.backend = "openai"
    config.prep.llm.api_key_env = "LDX_NO_SUCH_KEY"
    config.prep.retrievers.other = {"kind": "dense", "path": str(tmp_path)}
    costs = estimate(open_workspace(config, tmp_path))
    of = {cost.what: cost for cost in costs}
    assert of["prompts of claim"].tokens > 0
    assert "LDX_NO_SUCH_KEY" in of["prompts of claim"].problem
    assert of["queries embedded by other"].problem == of["passages embedded by other"].problem != ""
    assert of["queries embedded by student"].seconds > 0
    assert of["starts of a process"].seconds > 0
    text = costs_table(costs)
    assert "no time for prompts of question, prompts of claim" in text
    assert text.count("LDX_NO_SUCH_KEY") == 1
