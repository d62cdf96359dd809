"""The command `python -m ldx.evaluate`, run as a user runs it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ldx.evaluate
from ldx.common.errors import UserError
from ldx.eval.beir import Corpus, load_dataset, write_dataset
from ldx.eval.metrics import METRICS, read_run, score_run
from ldx.training.model import load_model
from tests.helpers import call_command, count_texts
from tests.toy import make_collection

TEXTS = ["banded linear solver", "mean of an array", "random sample", "drag of the wing"]


def evaluate(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ldx.evaluate", *arguments], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection whose queries are passages of the same ids, as in ArguAna."""
    root = tmp_path_factory.mktemp("collection") / "toy"
    ids = [f"d{i}" for i in range(len(TEXTS))]
    queries = dict(zip(ids[:3], TEXTS[:3], strict=True))
    qrels = {q: {ids[i + 1]: 2, "d3": 1} for i, q in enumerate(queries)}
    write_dataset(root, Corpus(ids, [""] * len(ids), TEXTS), queries, {"test": qrels})
    return root


def test_a_model_and_then_its_run(tiny_bert: Path, dataset: Path, tmp_path: Path) -> None:
    first = evaluate(
        f"--model={tiny_bert}", f"--dataset={dataset}", f"--output={tmp_path / 'a'}", "--k=200"
    )
    assert first.returncode == 0, first.stderr
    assert "own passage is removed" in first.stderr
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    run = read_run(tmp_path / "a" / "run.trec")
    assert {query: len(found) for query, found in run.items()} == {"d0": 3, "d1": 3, "d2": 3}
    assert all(query not in found for query, found in run.items())
    scores = score_run(load_dataset(dataset, "test").qrels, run)
    assert {name: metrics[name] for name in METRICS} == scores.mean
    assert metrics["passage_template"] == "{title} {text}"
    assert (metrics["index"], metrics["recall_of_index"]) == ("exact", 1.0)
    # The embeddings of the corpus are gone.
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "metrics.json",
        "per_query.tsv",
        "run.trec",
    }

    again = evaluate(
        f"--run={tmp_path / 'a' / 'run.trec'}",
        f"--baseline={tmp_path / 'a' / 'run.trec'}",
        f"--dataset={dataset}",
        f"--output={tmp_path / 'b'}",
        "--relevance-level=2",
    )
    assert again.returncode == 0, again.stderr
    rescored = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert rescored["relevance_level"] == 2
    assert rescored["nDCG@10"] == metrics["nDCG@10"]
    assert (
        rescored["RR@10"]
        == score_run(load_dataset(dataset, "test").qrels, run, relevance_level=2).mean["RR@10"]
    )
    assert rescored["nDCG@10_p_value"] == 1.0
    assert f"nDCG@10  {metrics['nDCG@10']:.4f}" in again.stdout
    assert (tmp_path / "a" / "run.trec").read_text() == (tmp_path / "b" / "run.trec").read_text()


@pytest.mark.slow  # tests/retrieval/test_embeddings_file.py kills what it does
def test_killed_while_it_embeds_it_goes_on(tiny_bert: Path, tmp_path: Path) -> None:
    root = make_collection(tmp_path / "toy", num_passages=8000)
    flags = [f"--model={tiny_bert}", f"--dataset={root}", "--microbatch_tokens=2048"]
    done = tmp_path / "killed" / ".embeddings" / ".passages.npy.json"
    command = [sys.executable, "-m", "ldx.evaluate", *flags, f"--output={tmp_path / 'killed'}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not done.exists() or not json.loads(done.read_text())["num_done"]:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "run.trec").exists()
    whole, again = (evaluate(*flags, f"--output={tmp_path / name}") for name in ("whole", "killed"))
    assert whole.returncode == again.returncode == 0, again.stderr
    assert "going on after" in again.stderr
    runs = [(tmp_path / name / "run.trec").read_text() for name in ("whole", "killed")]
    assert runs[0] == runs[1]
    assert not done.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--run={run}", "--model=y"], "give one of model and run"),
        (["--run={run}", "--split=dev"], "there are: test"),
        (["--run={run}"], "has no query of"),
        (["--model=y", "--k=5"], "100"),
    ],
)
def test_mistakes_end_with_2_and_leave_nothing(
    arguments: list[str], problem: str, dataset: Path, tmp_path: Path
) -> None:
    output, run = tmp_path / "out", tmp_path / "run.trec"
    run.write_text("x Q0 d1 1 0.5 tag\n")
    given = [a.format(run=run) for a in arguments]
    result = call_command(ldx.evaluate, f"--dataset={dataset}", f"--output={output}", *given)
    assert result.returncode == 2, result.stderr
    assert problem in result.stderr
    assert "Traceback" not in result.stderr
    assert not output.exists()


@pytest.mark.slow
def test_minilm_equals_sentence_transformers(data_dir: Path, minilm: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    result = evaluate(
        f"--model={minilm}", f"--dataset={data_dir / 'cranfield'}", f"--output={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    data = load_dataset(data_dir / "cranfield", "test")
    model = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    pairs = zip(data.corpus.titles, data.corpus.texts, strict=True)
    passages = model.encode([f"{title} {text}".strip() for title, text in pairs])
    queries = model.encode(list(data.queries.values()))
    scores = queries @ passages.T
    run = {}
    for i, query_id in enumerate(data.queries):
        best = np.argsort(-scores[i])[:100]
        run[query_id] = {data.corpus.doc_ids[row]: float(scores[i, row]) for row in best}
    expected = score_run(data.qrels, run).mean
    assert {name: metrics[name] for name in METRICS} == pytest.approx(expected, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ndcg"), [("scifact", 0.6451), ("nfcorpus", 0.3159)])
def test_minilm_reaches_the_known_levels(
    data_dir: Path, minilm: Path, tmp_path: Path, name: str, ndcg: float
) -> None:
    result = evaluate(f"--model={minilm}", f"--dataset={data_dir / name}", f"--output={tmp_path}")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["nDCG@10"] == pytest.approx(ndcg, abs=5e-4)


def test_passages_that_are_embedded_already(
    tiny_bert: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.npy"
    load_model(tiny_bert).index(dataset).save(path)
    sizes = count_texts(monkeypatch)
    options = {"model": str(tiny_bert), "passage_embeddings": path}
    given = ldx.evaluate(dataset, **options)
    assert sizes == [3]  # the queries
    assert given.metrics["passage_embeddings"] == str(path)
    expected = ldx.evaluate(dataset, model=str(tiny_bert))
    assert given.scores.mean == expected.scores.mean
    result = call_command(
        ldx.evaluate,
        *(f"--model={tiny_bert}", f"--dataset={dataset}", f"--output={tmp_path / 'out'}"),
        *(f"--passage_embeddings={path}", "--passage_template={text}"),
    )
    assert result.returncode == 2
    assert "embedded by another model" in result.stderr
    with pytest.raises(UserError, match="a run has its passages already"):
        ldx.evaluate(dataset, run="x.trec", passage_embeddings=path)
