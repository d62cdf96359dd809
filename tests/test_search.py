"""The command `python -m ldx.search` and its cache."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ldx.search
from ldx.eval.beir import Corpus
from ldx.models.student import load_student
from ldx.retrieval.encoder import encode_texts
from ldx.training.model import load_model
from tests.helpers import call_command

TEXTS = ["banded linear solver " * 20, "mean of an array", "random sample", "drag of the wing"]


def search(*arguments: str) -> subprocess.CompletedProcess:
    """The end of the command, run in this process."""
    return call_command(ldx.search, *arguments)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [{"_id": f"d{i}", "title": f"T{i}", "text": t} for i, t in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_answers_and_keeps_the_embeddings(tiny_bert: Path, corpus: Path, tmp_path: Path) -> None:
    flags = [f"--model={tiny_bert}", f"--corpus={corpus}", f"--cache={tmp_path / 'c'}", "--k=3"]
    command = [sys.executable, "-m", "ldx.search", *flags]
    queries = "random sample\n\nwing drag\n"
    first = subprocess.run(command, capture_output=True, text=True, input=queries)
    assert first.returncode == 0, first.stderr
    blocks = first.stdout.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "query: random sample",
        "query: wing drag",
    ]
    student = load_student(tiny_bert)
    texts = [f"T{i} {text}".strip() for i, text in enumerate(TEXTS)]
    passages = encode_texts(student, student.params, texts, kind="passage")
    query = encode_texts(student, student.params, ["random sample"], kind="query")
    scores = (query @ passages.T)[0]
    found = [line.split() for line in blocks[0].splitlines() if not line.startswith("     ")][1:]
    best = np.argsort(-scores)[:3]
    assert [fields[2] for fields in found] == [f"d{row}" for row in best]
    assert [fields[3] for fields in found] == [f"T{row}" for row in best]
    np.testing.assert_allclose([float(fields[1]) for fields in found], scores[best], atol=2e-4)
    assert all(len(line) <= 120 for line in first.stdout.splitlines())

    files = list((tmp_path / "c").glob("*.npy"))
    assert len(files) == 1
    before = files[0].stat().st_mtime_ns
    second = search(*flags, "random sample", "wing drag")
    assert second.returncode == 0, second.stderr
    assert second.stdout.split() == first.stdout.split()
    assert [p.stat().st_mtime_ns for p in (tmp_path / "c").glob("*.npy")] == [before]


def test_an_export_says_how_passages_are_made(
    tiny_bert: Path, corpus: Path, tmp_path: Path
) -> None:
    export = shutil.copytree(tiny_bert, tmp_path / "export")
    (export / "ldx_export.json").write_text('{"passage_template": "{text}"}')
    flags = [f"--corpus={corpus}", f"--cache={tmp_path / 'c'}", "random sample"]
    found = search(f"--model={export}", *flags).stdout
    assert found.startswith("query: random sample\n")
    assert found == search(f"--model={tiny_bert}", "--passage_template={text}", *flags).stdout
    assert found != search(f"--model={tiny_bert}", *flags).stdout


def test_the_cache_knows_model_corpus_and_template(tiny_bert: Path, tmp_path: Path) -> None:
    corpus = Corpus(["a", "b"], ["T", "U"], ["wing", "drag"])
    first = load_model(tiny_bert).index(corpus, cache=tmp_path).embeddings
    assert isinstance(first, np.memmap)
    others = [
        (load_model(tiny_bert, passage_template="{text}"), corpus),
        (load_model(tiny_bert), Corpus(["a", "b"], ["T", "U"], ["wing", "lift"])),
        (load_model(tiny_bert, passage_max_length=3), corpus),
    ]
    for number, (model, passages) in enumerate(others, 2):
        assert not np.array_equal(model.index(passages, cache=tmp_path).embeddings, first)
        assert len(list(tmp_path.glob("*.npy"))) == number


def test_a_mistake_ends_with_2(tiny_bert: Path, tmp_path: Path) -> None:
    result = search(f"--model={tiny_bert}", f"--corpus={tmp_path / 'nowhere'}", "query")
    assert result.returncode == 2
    assert "no such file or folder" in result.stderr
    assert "Traceback" not in result.stderr
