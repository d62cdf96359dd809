"""What a user sees when a command is called wrongly: one message, exit code 2."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ldx.common import cli

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=""):
    if arg == "study":
        return ConfigDict({"study": {"base": {"seed": 0}}})
    if arg:
        raise ValueError(f"no variant {arg!r}; there is study")
    return ConfigDict({"seed": 0, "optim": {"learning_rate": 1e-4, "on": True}})
"""

PROGRAM = """
import errno
from ldx.common import cli
def main(argv):
    what = cli.get_config().optim.learning_rate
    if what == 2.0:
        raise OSError(errno.ENOSPC, "No space left on device", "file.bin")
    if what == 3.0:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes")
    if what == 4.0:
        raise KeyboardInterrupt
    print("rate", what)
cli.define_config()
cli.run(main)
"""


OPTIONAL = """
from ml_collections import ConfigDict, config_dict
def get_config(arg=""):
    keys = {"n": int, "x": float, "on": bool, "name": str, "many": tuple}
    return ConfigDict({"seed": 1, "a": {k: config_dict.placeholder(t) for k, t in keys.items()}})
"""

SHOW = """
from ldx.common import cli
cli.define_config()
cli.run(lambda argv: print(sorted(cli.get_config().a.items())))
"""


@pytest.fixture
def call(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))

    def run(*flags):
        command = [sys.executable, str(tmp_path / "program.py"), *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    return run


def test_an_override_arrives(call):
    result = call("--config=config.py", "--config.optim.learning_rate=0.5")
    assert result.stdout == "rate 0.5\n"
    assert result.returncode == 0


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    """As in `python -m ldx.search ... | head`."""
    program = "from ldx.common import cli; cli.run(lambda argv: print(('x' * 99 + chr(10)) * 9999))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"x" * 99 + b"\n"
        process.stdout.close()
        assert process.wait(timeout=60) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing"),
        (["--config.optim.learning_rate=1"], "--config is missing; give one such as"),
        (["--config=config.py:study"], "config.py:study: this config is a study; run it with"),
        (["--config=config.py:smok"], "error: --config=config.py:smok: no variant 'smok'; there"),
        (["--config=absent.py"], "--config=absent.py: no such file; the configs there are config"),
        (["--config", "absent.py"], "--config=absent.py: no such file; the configs there are con"),
        (["--config=confg.py"], "--config=confg.py: no such file; did you mean config.py?"),
        (["--config=no/config.py"], "there is no folder no (the working folder is /"),
        (["--config=."], "error: --config=.: a folder; the configs there are config.py, "),
        (
            ["--config=config.py", "--config.optim.learning_rat=1"],
            "mean config.optim.learning_rate?",
        ),
        (["--config=config.py", "--config.optim.learning_rate=fast"], "learning_rate"),
        (
            ["--config=config.py", "--config.optim=fast"],
            "error: config.optim='fast': this is a section; set its keys one by one,",
        ),
        (["--config=config.py", "--config.optim.learning_rate=None"], "cannot be None"),
        (["--config=config.py", "--konfig=1"], "konfig"),
        (["--config=config.py", "--config.optim.learning_rate=2.0"], "disk is full (file.bin)"),
        (["--config=config.py", "--config.optim.learning_rate=3.0"], "microbatch_tokens"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(call, flags, message):
    result = call(*flags)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"n": "3", "x": ".5", "on": "true", "name": "None of it", "many": "(1,2)"},
            {"n": 3, "x": 0.5, "on": True, "name": "None of it", "many": (1, 2)},
        ),
        (
            dict.fromkeys(("n", "x", "on", "name", "many"), "None"),
            dict.fromkeys(("n", "x", "on", "name", "many")),
        ),
    ],
)
def test_a_key_that_may_be_none_takes_none(tmp_path, values, expected):
    (tmp_path / "config.py").write_text(OPTIONAL)
    flags = [f"--config.a.{key}={value}" for key, value in values.items()]
    (tmp_path / "show.py").write_text(SHOW)
    command = [sys.executable, "show.py", "--config=config.py", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == f"{sorted(expected.items())}\n", result.stderr


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n", "eight", "config.a.n='eight': wanted a whole number"),
        ("n", "1.5", "config.a.n='1.5': wanted a whole number"),
        ("x", "fast", "config.a.x='fast': wanted a number"),
        ("on", "yess", "config.a.on='yess': wanted true or false"),
        ("many", "(1, two three)", "config.a.many='(1, two three)': wanted values in brackets"),
        ("many", "(1", "config.a.many='(1': wanted values in brackets, such as"),
    ],
)
def test_a_value_of_the_wrong_kind(tmp_path, key, value, message):
    (tmp_path / "config.py").write_text(OPTIONAL)
    (tmp_path / "show.py").write_text(SHOW)
    command = [sys.executable, "show.py", "--config=config.py", f"--config.a.{key}={value}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert result.returncode == 2


IMPORTS = """
import sys
from ldx.common.configs import load_config
before = list(sys.path)
print(load_config(sys.argv[1]).optim.learning_rate, sys.path == before)
"""


@pytest.mark.parametrize("subfolder", ["", "studies"])
def test_a_config_finds_the_others_wherever_one_works(tmp_path, subfolder):
    """Neither the working folder nor PYTHONPATH has a folder configs."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "ldx").symlink_to(Path(cli.__file__).parents[1])
    folder = tmp_path / "mine" / "configs" / subfolder
    folder.mkdir(parents=True)
    (tmp_path / "mine" / "configs" / "other.py").write_text(CONFIG)
    config = folder / "config.py"
    config.write_text("from configs.other import get_config\n")
    (tmp_path / "function.py").write_text(IMPORTS)
    (tmp_path / "command.py").write_text(PROGRAM)
    calls = (["function.py", str(config)], ["command.py", f"--config={config}"])
    outputs = []
    for arguments in calls:
        result = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "library")},
        )
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    assert outputs == ["0.0001 True\n", "rate 0.0001\n"]


def test_a_config_that_ends_the_program_is_no_success(call, tmp_path):
    (tmp_path / "config.py").write_text("import sys\nsys.exit('give me a folder')\n")
    result = call("--config=config.py")
    assert (result.returncode, result.stderr) == (1, "give me a folder\n")


def test_ctrl_c_is_130(call):
    result = call("--config=config.py", "--config.optim.learning_rate=4.0")
    assert result.returncode == 130
    assert result.stderr == "stopped\n"


@pytest.mark.parametrize("path", ["file", "file/runs/demo"])
@pytest.mark.parametrize(
    ("module", "flag", "others"),
    [
        ("data_prep.run", "workdir", ["--config=configs/demo.py"]),
        ("data_prep.corpus", "workdir", ["--config=configs/demo.py"]),
        ("ldx.train", "workdir", ["--config=configs/demo.py"]),
        ("ldx.study", "workdir", ["--config=configs/studies/teachers.py:smoke"]),
        ("ldx.export", "workdir", ["--output=absent"]),
        ("ldx.export", "output", ["--workdir=absent"]),
        ("ldx.evaluate", "output", ["--run=absent", "--dataset=absent"]),
    ],
)
def test_a_file_in_the_place_of_a_folder(tmp_path, module, flag, others, path):
    (tmp_path / "file").write_text("")
    place = tmp_path / path
    command = [sys.executable, "-m", module, *others, f"--{flag}={place}"]
    result = subprocess.run(command, capture_output=True, text=True)
    where = "" if path == "file" else f": {tmp_path / 'file'}"
    assert result.stderr == f"error: --{flag}={place}{where} is a file; wanted a folder\n"
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("module", "flag", "others"),
    [
        ("data_prep.run", "workdir", ["--config=configs/demo.py"]),
        ("ldx.train", "workdir", ["--config=configs/demo.py"]),
        ("data_prep.run", "config.data.root", ["--config=configs/mine.py", "--workdir=WORK"]),
        ("ldx.evaluate", "model", ["--dataset=absent", "--output=out"]),
        ("ldx.search", "corpus", ["--model=absent", "query"]),
    ],
)
@pytest.mark.parametrize("kind", ["too long a name", "a loop of links", "an address"])
def test_paths_that_cannot_be(tmp_path, module, flag, others, kind):
    """One message that names the path, whatever the path is for."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = {
        "too long a name": tmp_path / ("x" * 300),
        "a loop of links": tmp_path / "loop" / "x",
        "an address": "gs://bucket/x",
    }[kind]
    others = [other.replace("WORK", str(tmp_path / "work")) for other in others]
    command = [sys.executable, "-m", module, *others, f"--{flag}={path}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 2, result.stderr
    assert "error: " in result.stderr
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr
    assert not (Path(__file__).parents[2] / "gs:").exists()


@pytest.mark.parametrize(
    ("module", "listed"),
    [
        ("ldx.train", ("--config:", "--workdir:", "--num_processes:")),
        (
            "ldx.study",
            (
                "--config:",
                "such as configs/studies/",
                "--workdir:",
                ":cpu",
                ":smoke",
                "--config.study.roots.NAME",
            ),
        ),
        ("ldx.evaluate", ("--model:", "--run:", "--dataset:", "give this or --run")),
        ("ldx.export", ("--workdir:", "--output:")),
        ("ldx.search", ("--model:", "--corpus:")),
        ("data_prep.run", ("--config:", "--workdir:", "--engine:", "--ray_address:")),
        ("data_prep.score", ("--config:", "--workdir:", "--engine:", "--ray_address:")),
    ],
)
def test_help_lists_the_flags(module, listed):
    command = [sys.executable, "-m", module, "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    for text in listed:
        assert text in " ".join(result.stdout.split())
    assert "--logtostderr" not in result.stdout  # other libraries' are for --helpfull
    assert not result.stderr


def test_help_has_nothing_needless():
    """Neither flags of an engine for a stage that never has one, nor defaults that say nothing."""
    command = [sys.executable, "-m", "data_prep.mine", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "--workdir:" in result.stdout
    assert "--ray_address" not in result.stdout
    assert "None" not in result.stdout


SHOWN = """
from absl import logging
from ldx.common import cli

def main(argv):
    from ldx.common.cli import _is_worth_showing
    record = lambda level: logging.get_absl_logger().makeRecord(
        "absl", level, "/x/site-packages/flax/core.py", 1, "", (), None
    )
    print([_is_worth_showing(record(level)) for level in (20, 30)], logging.level_debug())

cli.run(main)
"""


def test_details_are_shown_on_request(tmp_path):
    (tmp_path / "program.py").write_text(SHOWN)

    def output(*flags):
        command = [sys.executable, str(tmp_path / "program.py"), *flags]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    # Another library at INFO and at WARNING.
    assert output() == "[False, True] False\n"
    assert output("--verbose") == "[False, True] True\n"
