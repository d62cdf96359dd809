"""A tiny real run whose texts are markup, its report made once more, and a reader of its page."""

import csv
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from ldx.data.sources import source_configs
from ldx.models.student import Student, load_student
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet, records_fingerprint, write_lists
from ldx.report import final
from ldx.training.checkpoint import read_progress
from ldx.training.verdict import judge
from tests import toy

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


def train(folder: Path, model: Path) -> Path:
    """Train on hostile texts; the workdir of the run, which made its report."""
    root = hostile_collection(folder / "collection")
    query = json.loads((root / "queries.jsonl").read_text().splitlines()[0])["text"]
    records = hostile_records(folder / "records", query.upper())
    rows = {int(row) for record in ListSet(records, "dev") for row in record.rows}
    config = toy.write_config(
        folder / "config.py",
        model={"path": str(model), "query_max_length": 32, "passage_max_length": 64},
        data={"root": str(root), "records": str(records)},
        optim={"learning_rate": 3e-3},
        train={
            "num_steps": 6,
            "eval_every": 3,
            "dev_pool": len(rows),
            "microbatch_tokens": 384,
            "bucket_lengths": (64,),
        },
    )
    command = [sys.executable, "-m", "ldx.train", f"--config={config}"]
    result = subprocess.run(
        [*command, f"--workdir={folder / 'run'}"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "could not be" not in result.stderr
    (folder / "run" / "stderr").write_text(result.stderr)
    return folder / "run"


@functools.cache
def student_of(section: str) -> Student:
    """The student of a config's section, one for all tests, so that programs are compiled once."""
    return load_student(**json.loads(section))


def make(workdir: Path, config=None, judged=True, check=lambda: None, **options) -> Path:
    """Make what is missing of a run's report in this process; the path of the page."""
    config = config or json.loads((workdir / "config.json").read_text())
    sources = source_configs(config["data"], workdir)
    manifests = {name: Manifest.read(source.records) for name, source in sources.items()}
    collections = final.judged_datasets(workdir, config, sources, manifests) if judged else {}
    student = student_of(json.dumps(config["model"]))
    options.setdefault("verdict", judge(workdir, read_progress(workdir)))
    final.make(workdir, config, collections, student, check, **options)
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
