"""Tests of the stages together: data_prep/run.py, stage.py, corpus.py, mine.py and the others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from data_prep import baselines, corpus, generate_queries, mine, score, write_lists
from data_prep.candidates import Candidates
from data_prep.choice import split_of
from data_prep.neighbours import neighbour_order
from data_prep.run import STAGES
from data_prep.stage import Workspace
from ldx.data.records import ListSource, Manifest, PassageSource
from ldx.errors import UserError
from ldx.eval import beir, metrics

ROOT = Path(__file__).parents[2]
MODULES = (corpus, generate_queries, mine, score, write_lists, baselines)
NOUNS = ["matrix", "array", "cell", "protein", "wing", "drag", "sample", "query", "drug", "blood"]
VERBS = ["sorts", "solves", "indexes", "flows into", "sums", "lifts"]


def make_collection(root: Path, num_passages: int = 60) -> Path:
    doc_ids, texts, queries = [], [], {}
    train: beir.Qrels = {}
    test: beir.Qrels = {}
    for i in range(num_passages):
        a, b, c = NOUNS[i % 10], NOUNS[(i // 10 + i + 1) % 10], VERBS[i % 6]
        doc_ids.append(f"d{i}")
        texts.append(
            f"The {a} number{i} {c} the {b} of system{i}. Every {b} has a mean and a random "
            f"index{i} in the passage. A linear {a} is for the banded trial{i} and the air."
        )
        queries[f"q{i}"] = f"which {a} {c} system{i}"
        (train if i % 2 else test)[f"q{i}"] = {f"d{i}": 1, f"d{(i + 1) % num_passages}": 1}
    made = beir.Corpus(doc_ids, [f"title {i}" for i in range(num_passages)], texts)
    beir.write_dataset(root, made, queries, {"train": train, "test": test})
    return root


def make_config(root: Path, model: Path) -> ConfigDict:
    config = base.get_config()
    config.data.root = str(root)
    config.data.passage_template = "{title} {text}"
    config.model.path = str(model)
    config.model.query_max_length = 32
    config.model.passage_max_length = 64
    config.prep.candidate_depth = 20
    config.prep.list_size = 4
    config.prep.num_held_out = 3
    config.prep.dev_fraction = 0.3
    return config


def run_stages(config: ConfigDict, workdir: Path, modules=MODULES) -> None:
    for module in modules:
        module.STAGE.run(Workspace(config, workdir))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return make_collection(tmp_path_factory.mktemp("prep") / "toy")


@pytest.fixture(scope="module")
def prepared(collection, tiny_bert, tmp_path_factory):
    """A workspace with all stages done in this process."""
    workdir = tmp_path_factory.mktemp("prepared")
    config = make_config(collection, tiny_bert)
    run_stages(config, workdir)
    return Workspace(config, workdir)


def read_lists(workspace: Workspace) -> dict[str, list]:
    sources = {split: ListSource(workspace.records, split) for split in ("train", "dev")}
    return {split: [source[i] for i in range(len(source))] for split, source in sources.items()}


def test_lists_keep_their_promises(prepared):
    passages = PassageSource(prepared.records)
    held_out = set(corpus.load_held_out(prepared))
    assert len(passages) == 60
    assert len(held_out) == 3
    lists = read_lists(prepared)
    assert {record.query_type for record in lists["train"]} == {"sentence", "keywords", "title"}
    for split, records in lists.items():
        for record in records:
            assert len(record.rows) == 4
            assert record.rows[0] == record.source_row
            assert not held_out & set(record.rows.tolist())
            assert split_of(0.3, 0, passages[record.source_row].doc_id) == split
            assert ((record.teacher_scores >= 0) & (record.teacher_scores <= 1)).all()
            assert (np.diff(record.teacher_scores) <= 0).all()
            assert record.source == "toy"
    sources = {split: {r.source_row for r in records} for split, records in lists.items()}
    assert not sources["train"] & sources["dev"]


def test_the_manifest_tells_where_lists_come_from(prepared):
    manifest = Manifest.read(prepared.records)
    assert manifest.collection == "toy"
    assert [teacher["name"] for teacher in manifest.teachers] == ["dense", "bm25"]
    assert sum(teacher["weight"] for teacher in manifest.teachers) == pytest.approx(1)
    assert set(manifest.yields) == {"corpus", "generate_queries", "mine", "score", "write_lists"}
    assert manifest.passage_template == "{title} {text}"
    assert "in an order of all by the mean embedding" in manifest.order_key


def test_order_keys_are_places_among_neighbours(prepared):
    embeddings = np.load(prepared.prep / "embeddings" / "passages.npy")
    rows = Candidates.load(prepared.prep / "candidates.npz").rows
    places = neighbour_order(np.stack([embeddings[r[r >= 0][:20]].mean(axis=0) for r in rows]))
    number = {q.query_id: i for i, q in enumerate(generate_queries.load_queries(prepared))}
    for records in read_lists(prepared).values():
        assert all(record.order_key == places[number[record.query_id]] for record in records)


def test_baselines_find_what_they_should(prepared):
    dataset = beir.load_dataset(prepared.dataset, "test")
    for name in ("bm25", "teacher"):
        run = metrics.read_run(prepared.baselines / f"{name}.trec")
        assert set(run) == set(dataset.queries)
        scores = metrics.score_run(dataset.qrels, run)
        assert scores.mean["nDCG@10"] > 0.5


def test_a_second_run_does_nothing_and_a_changed_key_does_what_follows(prepared, capsys):
    run_stages(prepared.config, prepared.workdir)
    assert capsys.readouterr().out.count("up to date") == len(MODULES)
    changed = prepared.config.copy_and_resolve_references()
    changed.prep.list_size = 5
    run_stages(changed, prepared.workdir)
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert [name for name in STAGES if said[name] != "up to date"] == ["write_lists"]
    run_stages(prepared.config, prepared.workdir)


def test_an_output_that_was_damaged_is_made_again(prepared, capsys):
    path = prepared.prep / "scores.npz"
    good = path.read_bytes()
    path.write_bytes(good[:-7])
    run_stages(prepared.config, prepared.workdir)
    assert "score: pairs" in capsys.readouterr().out
    assert path.read_bytes() == good


def test_human_queries(collection, tiny_bert, tmp_path):
    config = make_config(collection, tiny_bert)
    config.prep.queries = "human"
    run_stages(config, tmp_path)
    workspace = Workspace(config, tmp_path)
    lists = read_lists(workspace)
    train_qrels = beir.load_dataset(collection, "train").qrels
    records = lists["train"] + lists["dev"]
    assert len(records) >= 28
    passages = PassageSource(workspace.records)
    for record in records:
        relevant = train_qrels[record.query_id]
        for row, label in zip(record.rows, record.labels, strict=True):
            assert label == relevant.get(passages[row].doc_id, -1)
        assert record.labels[0] == 1
        assert (record.labels == -1).any()
        assert record.source_row == -1


def test_a_collection_without_test_queries(collection, tiny_bert, tmp_path):
    dataset = beir.load_dataset(collection, "train")
    root = tmp_path / "untested"
    beir.write_dataset(root, dataset.corpus, dataset.queries, {"train": dataset.qrels})
    run_stages(make_config(root, tiny_bert), tmp_path)
    assert not (tmp_path / "baselines").exists()


def test_a_bare_corpus_is_enough(collection, tiny_bert, tmp_path):
    """A user with passages only, no query and no judgment."""
    root = tmp_path / "bare"
    root.mkdir()
    (root / "corpus.jsonl").write_bytes((collection / "corpus.jsonl").read_bytes())
    run_stages(make_config(root, tiny_bert), tmp_path)
    assert len(ListSource(tmp_path / "records", "train"))
    assert not (tmp_path / "baselines").exists()


def test_a_collection_of_the_users_is_never_overwritten(collection, tiny_bert, tmp_path):
    config = make_config(collection, tiny_bert)
    config.prep.collection = "api_docs"
    before = (collection / "corpus.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"leave data\.root empty"):
        corpus.STAGE.run(Workspace(config, tmp_path))
    assert (collection / "corpus.jsonl").read_bytes() == before


def test_the_baselines_are_of_the_split_that_is_reported(prepared, collection, tiny_bert):
    config = make_config(collection, tiny_bert)
    config.eval.split = "train"
    run_stages(config, prepared.workdir, [baselines])
    run = metrics.read_run(prepared.baselines / "bm25.trec")
    assert set(run) == set(beir.load_dataset(collection, "train").queries)
    run_stages(prepared.config, prepared.workdir, [baselines])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("config.prep.list_sise = 8", "did you mean list_size"),
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
    flags = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'work'}"]
    command = [sys.executable, "-m", "data_prep.run", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


BAD = {
    "corpus": ("corpus.jsonl", lambda text: text + "{broken\n", "corpus.jsonl"),
    "queries": ("queries.jsonl", lambda text: text[:-10] + "\n", "queries.jsonl"),
    "qrels": ("qrels/test.tsv", lambda text: text + "q0\td1\thigh\n", "not a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_broken_collections_are_refused_before_anything_is_written(case, tiny_bert, tmp_path):
    name, spoil, message = BAD[case]
    root = make_collection(tmp_path / "bad")
    (root / name).write_text(spoil((root / name).read_text()))
    workdir = tmp_path / "work"
    with pytest.raises(UserError, match=message):
        corpus.STAGE.run(Workspace(make_config(root, tiny_bert), workdir))
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("key", "value", "module", "message"),
    [
        ("collection", "wiki", corpus, "prep.collection is 'wiki'"),
        ("queries", "llm", generate_queries, "prep.queries is 'llm'"),
        ("query_types", ("poem",), generate_queries, "poem"),
        ("teacher_weight", 1.5, score, "prep.teacher_weight is 1.5"),
        ("list_size", 1000, write_lists, "no train lists"),
    ],
)
def test_settings_that_cannot_be(prepared, tmp_path, key, value, module, message):
    config = prepared.config.copy_and_resolve_references()
    config.prep[key] = value
    with pytest.raises(UserError, match=message):
        module.STAGE.run(Workspace(config, prepared.workdir))
    run_stages(prepared.config, prepared.workdir)


def test_a_stage_out_of_order_says_what_to_run(collection, tiny_bert, tmp_path):
    with pytest.raises(UserError, match=r"python -m data_prep.corpus"):
        mine.STAGE.run(Workspace(make_config(collection, tiny_bert), tmp_path))
    config = make_config(collection, tiny_bert)
    config.data.root = ""
    with pytest.raises(UserError, match=r"data\.root is empty"):
        corpus.STAGE.run(Workspace(config, tmp_path))


@pytest.mark.parametrize(("name", "kept"), [("scifact", 800), ("nfcorpus", 2500)])
def test_human_queries_of_real_collections(data_dir, tiny_bert, tmp_path, name, kept):
    config = make_config(data_dir / name, tiny_bert)
    config.prep.queries = "human"
    config.prep.num_held_out = 100
    run_stages(config, tmp_path, (corpus, generate_queries))
    queries = generate_queries.load_queries(Workspace(config, tmp_path))
    assert kept - 100 < len(queries) <= kept + 90
    assert all(query.relevant for query in queries)


@pytest.fixture
def command(collection, tiny_bert, tmp_path):
    """Start `python -m data_prep.run` on the toy collection in a process group of its own."""
    config = tmp_path / "config.py"
    settings = make_config(collection, tiny_bert).to_json_best_effort()
    config.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({settings!r}))\n"
    )

    def start(*overrides: str) -> subprocess.Popen:
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


def test_the_command_goes_on_after_a_kill(command):
    start, workdir = command
    process = start()
    while not (workdir / "prep" / "generate_queries.json").is_file():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (workdir / "records" / "manifest.json").exists()
    out, _ = finish(start())
    lines = out.splitlines()
    assert lines[:2] == ["corpus: up to date", "generate_queries: up to date"]
    assert Manifest.read(workdir / "records").num_passages == 60
    out, _ = finish(start())
    assert out.splitlines() == [f"{name}: up to date" for name in STAGES]


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
