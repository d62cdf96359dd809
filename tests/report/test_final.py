"""The page of a tiny real run: its numbers, hostile texts, failures, kills, and a real browser."""

import csv
import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from ldx.common.interrupt import Interrupted
from ldx.data.sources import source_configs
from ldx.models.student import Student, load_student
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet, records_fingerprint, write_lists
from ldx.report import final, plots
from ldx.report import page as page_module
from ldx.report.html import Html
from ldx.report.html import page as html_page
from ldx.training.checkpoint import read_progress
from ldx.training.verdict import judge
from tests import toy
from tests.browser import browse, look_at, needs_browser

HOSTILE = """<script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"'&lt;"""
SECTIONS = [
    "1. Human judgments",
    "2. Training",
    "3. Queries won and lost",
    "4. Query types",
    "5. Student and teacher",
    "6. Entropy of the lists",
    "7. Distinct passages and time",
    "8. Training data",
    "9. Settings and versions",
]
TAGS = set(
    """html head meta title style body main div h1 h2 h3 h4 p strong nav ul li a section table
    caption thead tbody tr th td span details summary pre figure figcaption dl dt dd bdi code
    svg defs g path use clippath rect text image""".split()  # noqa: SIM905
)
CONFIG = """
from configs import base

def get_config(arg=""):
    config = base.get_config()
    config.model.path = {model!r}
    config.model.query_max_length = 32
    config.model.passage_max_length = 64
    config.data.root = {root!r}
    config.data.records = {records!r}
    config.data.batch_size = 8
    config.optim.learning_rate = 3e-3
    config.train.num_steps = 6
    config.train.eval_every = 3
    config.train.stop_on = None
    config.train.dev_pool = {dev_pool}
    config.train.microbatch_tokens = 512
    return config
"""


def hostile_collection(root: Path) -> Path:
    """A collection whose ids, titles and texts are markup."""
    toy.make_collection(root, num_queries=20)
    for name, key in (("corpus", "title"), ("queries", "text")):
        path = root / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line[key] = f"{line[key]} {HOSTILE}"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def hostile_records(folder: Path, test_query: str) -> Path:
    """Lists of two query types, one of which is markup; the first list's query is the test's."""
    manifest = Manifest.read(toy.make_records(folder))
    lists = {split: list(ListSet(folder, split)) for split in ("train", "dev")}
    for each in lists.values():
        each[::2] = [dataclasses.replace(x, query_type=f"$x_1$ {HOSTILE}") for x in each[::2]]
    lists["train"][0] = dataclasses.replace(lists["train"][0], query=test_query)
    counts = write_lists(folder, lists)
    fingerprints = {s: records_fingerprint(folder, s) for s in ("passages", "lists")}
    yields = {"queries": 9, f"kept {HOSTILE}": 3, "entries over max_score": 7}
    facts = {
        "yields": yields,
        "agreement": {"one and other": {"tau": 0.5, "top-1": 0.25}},
        "entropy": {"median": 0.25},
        "scales": {"hybrid": {"low": 0.0, "high": 2.0}},
    }
    dataclasses.replace(
        manifest,
        num_lists=counts,
        fingerprints=fingerprints,
        yields={"corpus": {"passages": 40}, "calibrate": {"lists": 60, "facts": {"title": facts}}},
        calibration={"method": HOSTILE, "scales": {"title": facts["scales"]}},
        prompts={"title": HOSTILE},
        judges={f"$x_1$ {HOSTILE}": ["people", "a language model"]},
    ).write(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tiny_bert, tmp_path_factory) -> Path:
    """The workdir of a run that trained and made its report."""
    folder = tmp_path_factory.mktemp("hostile")
    root = hostile_collection(folder / "collection")
    query = json.loads((root / "queries.jsonl").read_text().splitlines()[0])["text"]
    records = hostile_records(folder / "records", query.upper())
    rows = {int(row) for record in ListSet(records, "dev") for row in record.rows}
    text = CONFIG.format(
        model=str(tiny_bert), root=str(root), records=str(records), dev_pool=len(rows)
    )
    (folder / "config.py").write_text(text)
    command = [sys.executable, "-m", "ldx.train", f"--config={folder / 'config.py'}"]
    result = subprocess.run(
        [*command, f"--workdir={folder / 'run'}"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "could not be" not in result.stderr
    (folder / "run" / "stderr").write_text(result.stderr)
    return folder / "run"


@functools.cache
def student_of(section: str) -> Student:
    """One student for all tests, whose programs are compiled once."""
    return load_student(**json.loads(section))


def make(workdir: Path, config=None, judged=True, check=lambda: None, **options) -> Path:
    """The report of a run, once more, in this process."""
    config = config or json.loads((workdir / "config.json").read_text())
    sources = source_configs(config["data"], workdir)
    manifests = {name: Manifest.read(source.records) for name, source in sources.items()}
    found = final.judged_datasets(workdir, config, sources, manifests) if judged else {}
    student = student_of(json.dumps(config["model"]))
    options.setdefault("verdict", judge(workdir, read_progress(workdir)))
    final.make(workdir, config, found, student, check, **options)
    return workdir / "report" / "index.html"


def copy_without(finished: Path, tmp_path: Path, *names: str) -> Path:
    """A copy of a run that lacks some files."""
    workdir = shutil.copytree(finished, tmp_path / "copy")
    for name in names:
        (workdir / name).unlink()
    return workdir


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """Tags with attributes, section titles, and all text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.titles: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)
        if self.tags and self.tags[-1][0] == "h2":
            self.titles.append(data.strip())


def test_hostile_texts_stay_texts(finished):
    page = Page(finished / "report" / "index.html")
    assert {tag for tag, _ in page.tags} <= TAGS
    assert page.text.count(HOSTILE) > 20
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        link = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert link.startswith(("#", "data:image/png;base64,"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_section_has_its_content(finished):
    page = Page(finished / "report" / "index.html")
    assert [title for title in page.titles if title] == SECTIONS
    assert "could not be" not in page.text
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 6
    assert "3 (33%)" in page.text  # the yield of a filter
    told = "queries: 6 human judged by people and a language model, 6 synthetic"
    assert f"Dev nDCG@10 is of {told}." in page.text
    assert f"12 {told}, step" in page.text  # the verdict
    assert f"$x_1$ {HOSTILE}" in page.text
    won = read_csv(finished / "report" / "per_query.csv")
    differences = [float(row["trained"]) - float(row["base"]) for row in won]
    shown = [f"{x:+.4f}" for x in sorted(differences) if x]
    assert shown
    assert shown[0] in page.text
    assert shown[-1] in page.text


def test_numbers_are_those_of_results_and_scipy(finished):
    results = json.loads((finished / "results.json").read_text())
    data = json.loads((finished / "report" / "data.json").read_text())
    assert data["results"] == results
    rows = read_csv(finished / "report" / "per_query.csv")
    base, trained = (np.array([float(row[x]) for row in rows]) for x in ("base", "trained"))
    assert np.any(base != trained)
    facts = results["trained"]
    expected = scipy.stats.ttest_rel(trained, base).pvalue
    assert facts["t_test_p_value"] == pytest.approx(expected, rel=1e-9)
    assert facts["nDCG@10"] == pytest.approx(trained.mean())
    assert facts["nDCG@10_difference"] == pytest.approx((trained - base).mean())
    assert facts["wins"] == (trained > base).sum()
    told = {
        (row["system"], row["metric"]): row for row in read_csv(finished / "report/results.csv")
    }
    assert len(told) == 8
    for (system, metric), row in told.items():
        assert float(row["value"]) == results[system][metric]
        assert [float(row["low"]), float(row["high"])] == results[system][f"{metric}_interval"]
        if system == "trained":
            for key in ("difference", "p_value", "t_test_p_value", "wins", "losses", "ties"):
                assert float(row[key]) == facts[f"{metric}_{key}"]
    text = Page(finished / "report" / "index.html").text
    for key in ("nDCG@10", "AP@100", "p_value", "t_test_p_value"):
        assert f"{facts[key]:.4f}" in text


def test_dev_lists_have_the_losses_that_training_saw(finished):
    rows = read_csv(finished / "report" / "dev_lists.csv")
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    dev = {line["step"]: line for line in lines if "dev/nDCG@10" in line}
    best = json.loads((finished / "progress.json").read_text())["best_step"]
    assert best > 0
    assert len(rows) == 12
    for system, step in (("base", 0), ("trained", best)):
        mean = np.mean([float(row[f"listwise_kl_{system}"]) for row in rows])
        assert mean == pytest.approx(dev[step]["dev/listwise_kl"], rel=1e-3)
        # The dev pool has room for the lists' passages alone, so both pools are the same.
        ndcg = np.mean([float(row[f"nDCG@10_{system}"]) for row in rows])
        assert ndcg == pytest.approx(dev[step]["dev/nDCG@10"], abs=1e-6)
    steps = read_csv(finished / "report" / "steps.csv")
    assert [int(row["step"]) for row in steps] == list(range(1, 7))


def test_what_is_shared_with_the_test_is_told(finished):
    """The first list has the words of the first test query, and the passage judged for it."""
    told = json.loads((finished / "leakage.json").read_text())
    counts = {k: v for k, v in told[""].items() if k != "fingerprint"}
    assert list(told) == [""]
    assert (counts["lists_with_test_query"], counts["judgments_in_lists"]) == (1, 1)
    assert (counts["num_lists"], counts["num_queries"], counts["judged_passages"]) == (48, 20, 20)
    (line,) = [x for x in (finished / "stderr").read_text().splitlines() if "test queries" in x]
    assert "1 of 48 training lists have the words of one of 20 test queries" in line
    assert json.loads((finished / "report" / "data.json").read_text())["leakage"] == {"": counts}
    text = Page(finished / "report" / "index.html").text
    assert "What training lists and test share" in text
    names = (
        "training lists",
        "test queries",
        "training lists with the words of a test query",
        "test judgments (query, relevant passage) that such lists hold",
        "passages relevant to a test query",
        "of these, in a training list",
        "of these, first of a training list",
    )
    rows = re.search(r"(\d+)\s*".join(map(re.escape, names)) + r"(\d+)", text)
    assert rows, text
    assert [int(number) for number in rows.groups()] == list(counts.values())


def test_how_far_the_order_moved_towards_the_teachers(finished):
    """By numbers of every list; on the page, and in the data."""
    rows = read_csv(finished / "report" / "dev_lists.csv")
    data = json.loads((finished / "report" / "data.json").read_text())["dev_lists"]["toy"]
    text = Page(finished / "report" / "index.html").text
    shown = {
        "teacher_ndcg": "nDCG@10 against the teacher's ten best",
        "kendall_tau": "Kendall's tau-b",
    }
    for key, name in shown.items():
        base, trained = (
            np.array([float(row[f"{key}_{system}"]) for row in rows])
            for system in ("base", "trained")
        )
        assert np.any(base != trained)
        assert data["all"]["base"][key] == pytest.approx(base.mean())
        assert data["all"]["trained"][key] == pytest.approx(trained.mean())
        assert f"{name}{base.mean():.3f}{trained.mean():.3f}" in text
        assert f"{(trained - base).mean():+.4f}" in text


def test_a_finished_page_is_left_alone_and_a_missing_one_is_made(finished, tmp_path, capsys):
    workdir = copy_without(finished, tmp_path)
    before = (workdir / "report" / "index.html").stat().st_mtime_ns
    made = make(workdir)
    assert made.stat().st_mtime_ns == before
    made.unlink()
    scores = (workdir / "report" / "dev_scores.npz").stat().st_mtime_ns
    capsys.readouterr()
    make(workdir)
    assert made.read_bytes() == (finished / "report" / "index.html").read_bytes()
    assert (workdir / "report" / "dev_scores.npz").stat().st_mtime_ns == scores
    assert capsys.readouterr().out == (finished / "report.txt").read_text()


def test_a_kill_while_dev_lists_are_scored(finished, tmp_path):
    names = ("index.html", "dev_scores.npz", "curves.png")
    workdir = copy_without(
        finished, tmp_path, "report.txt", "results.json", *(f"report/{n}" for n in names)
    )

    def check():
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        make(workdir, check=check)
    for name in ("report.txt", "results.json"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes()
    assert not (workdir / "report" / "index.html").exists()
    make(workdir)
    assert [x for x in Page(workdir / "report" / "index.html").titles if x] == SECTIONS
    assert (workdir / "report" / "curves.png").stat().st_size > 10_000


def broken(*_, **__):
    raise RuntimeError(f"no plot today {HOSTILE}")


def test_what_fails_costs_itself_alone(finished, tmp_path, monkeypatch, capsys):
    workdir = copy_without(finished, tmp_path, "report.txt", "results.json", "report/index.html")
    monkeypatch.setattr(plots, "sorted_differences", broken)
    monkeypatch.setattr(plots, "curves", broken)
    page = Page(make(workdir))
    assert [title for title in page.titles if title] == SECTIONS
    assert page.text.count(f"This could not be made: RuntimeError: no plot today {HOSTILE}") == 2
    for name in ("index.html", "dev_scores.npz"):
        (workdir / "report" / name).unlink()
    monkeypatch.setattr(page_module, "make_dev_scores", broken)
    page = Page(make(workdir))
    assert page.text.count(f"could not be scored: no plot today {HOSTILE}") == 3
    (workdir / "report" / "index.html").unlink()
    monkeypatch.setattr(final, "make_page", broken)
    capsys.readouterr()
    assert not make(workdir).exists()
    assert capsys.readouterr().out == (workdir / "report.txt").read_text()
    assert (workdir / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_several_sources_have_a_part_each(finished, tmp_path):
    workdir = copy_without(finished, tmp_path, "report.txt", "results.json", "report/index.html")
    config = json.loads((workdir / "config.json").read_text())
    source = {"records": config["data"].pop("records"), "root": config["data"].pop("root")}
    sources = {"a<b>": source, "other": source | {"query_prompt": "the "}}
    config["data"] |= {"records": "", "root": "", "sources": sources}
    page = Page(make(workdir, config))
    results = json.loads((workdir / "results.json").read_text())
    single = json.loads((finished / "results.json").read_text())
    assert set(results) == {f"{s}/{x}" for s in sources for x in ("base", "trained")}
    assert results["a<b>/trained"] == single["trained"]
    assert results["other/trained"] != single["trained"]
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 2 + 4 * 2
    assert "a<b> test: 20 queries, 40 passages" in page.text
    rows = read_csv(workdir / "report" / "dev_lists.csv")
    assert {row["source"] for row in rows} == set(sources)


def test_without_judgments_and_with_a_verdict(finished, tmp_path):
    workdir = copy_without(finished, tmp_path, "report.txt", "results.json", "report/index.html")
    verdict = SimpleNamespace(status="not distinguishable", text=f"dev says so {HOSTILE}")
    page = Page(make(workdir, judged=False, verdict=verdict))
    assert f"dev says so {HOSTILE}" in page.text
    assert "verdict not-distinguishable" in [a.get("class") for _, a in page.tags]
    assert page.text.count("No human judgments were given") == 3
    assert [title for title in page.titles if title] == SECTIONS
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 5


def test_where_the_base_model_is_kept_nothing_is_computed_twice(finished, tmp_path):
    names = ("report.txt", "results.json", "report/index.html", "report/dev_scores.npz")
    workdir = copy_without(finished, tmp_path, *names)
    progress = json.loads((workdir / "progress.json").read_text())
    (workdir / "progress.json").write_text(json.dumps(progress | {"best_step": 0}))
    page = Page(make(workdir))
    assert "the base model is what is kept" in page.text
    assert "No query's nDCG@10 changed." in page.text
    with np.load(workdir / "report" / "dev_scores.npz") as stored:
        np.testing.assert_array_equal(stored["scores_trained"], stored["scores_base"])


@needs_browser
def test_in_a_browser(finished, tmp_path):
    dom_path = look_at(finished / "report" / "index.html", tmp_path)
    loading = tmp_path / "loading.html"
    loading.write_text(html_page("x", Html('<img src="x.png">'), []))
    assert "CONSOLE" in browse(loading, tmp_path, "--dump-dom").stderr
    dom = Page(dom_path)
    assert [title for title in dom.titles if title] == SECTIONS
    assert {tag for tag, _ in dom.tags} <= TAGS
