"""Tests of data_prep/generate_documents.py against a small server of OpenAI's API."""

import hashlib
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_prep.corpora.passages import load_passages
from data_prep.documents.answer import DocumentFault
from data_prep.documents.document import DOCUMENTS_NAME, load_documents
from data_prep.engines.shards import read_json_lines
from data_prep.generate_documents import STAGE, queries_with_documents
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.workspace import open_workspace
from data_prep.preflight.dry_run import estimate
from data_prep.queries.query import load_queries
from data_prep.retrieval.candidates import Candidates, candidate_paths
from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.eval import beir
from ldx.records.manifest import Manifest
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import ListSet, PassageSet
from tests.data_prep.llm_server import MODEL, Server, completion, failure
from tests.data_prep.toy import make_collection, make_config, reopened, run_stages

ROOT = Path(__file__).parents[2]


def query_of(body):
    return body["messages"][-1]["content"].rpartition("Query: ")[2]


def written(body, attempt=1):
    """A good answer, whose words are a function of the query and the seed, as a model's are."""
    digest = hashlib.sha256(f"{query_of(body)} {body['seed']}".encode()).hexdigest()
    words = " ".join(digest[i : i + 4] for i in range(0, 48, 4))
    return "\n".join(f"### LEVEL {n}\n{words} {n} {query_of(body)}." for n in (3, 2, 1, 0))


@pytest.fixture
def server():
    one = Server()
    one.answer = lambda body, attempt: completion(written(body))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    root = make_collection(tmp_path_factory.mktemp("documents") / "toy")
    qrels = beir.read_qrels(beir.find_qrels(root, "train"))
    dev = {query_id: qrels.pop(query_id) for query_id in ("q1", "q3")}
    dataset = beir.load_dataset(root, "train")
    beir.write_dataset(root, dataset.corpus, beir.read_queries(root), {"train": qrels, "dev": dev})
    return root


@pytest.fixture(scope="module")
def prepared(collection, tmp_path_factory):
    """Human queries."""
    config = make_config(collection, Path("no student"))
    config.prep.queries = "human"
    config.prep.retrievers = ConfigDict({"bm25": {"kind": "bm25"}})
    config.prep.list_source = "graded"
    config.prep.graded = ConfigDict(
        {
            "written": {"kind": "synthetic", "levels": (3, 2, 0)},
            "real": {"kind": "judged", "num": 1, "relabel": {"1": 3}},
            "found": {"kind": "mined", "num": 2, "label": 0, "range_min": 3},
        }
    )
    config.prep.shard_size = 4
    folder = tmp_path_factory.mktemp("prepared") / "work"
    return run_stages(config, folder, ["corpus", "generate_queries"])


@pytest.fixture
def workspace(server, prepared, tmp_path):
    """The queries, and a server that writes passages for them."""
    shutil.copytree(prepared.workdir, tmp_path / "work")
    config = prepared.config.copy_and_resolve_references()
    config.prep.llm.backend = "openai"
    config.prep.llm.model = MODEL
    config.prep.llm.base_url = server.base_url
    config.prep.llm.concurrency = 4
    config.prep.llm.max_retries = 0
    return open_workspace(config, tmp_path / "work")


def counts_of(workspace):
    return read_json(workspace.prep / "generate_documents.json")["counts"]


def test_every_query_gets_its_passages_in_one_request(workspace, server):
    counts = STAGE.run(workspace)
    queries = load_queries(workspace)
    asked = [query for query in queries if query.query_type != HUMAN_DEV]
    assert len(asked) == len(queries) - 2 > 20  # dev queries have none
    assert queries_with_documents(queries) == asked
    found = list(load_documents(workspace))
    assert [(d.query_id, d.level) for d in found] == [
        (query.query_id, level) for query in asked for level in (3, 2, 1, 0)
    ]
    assert sorted(map(query_of, server.bodies)) == sorted(query.text for query in asked)
    assert {body["max_tokens"] for body in server.bodies} == {2048}
    assert len({body["seed"] for body in server.bodies}) == len(asked)
    assert len({body["messages"][-1]["content"] for body in server.bodies}) == len(asked)
    assert (counts["queries"], counts["with passages"], counts["level 2"]) == (len(asked),) * 3
    assert counts["dropped"] == {}


def test_malformed_answers_are_asked_again_counted_and_left_out(workspace, server):
    texts = [query.text for query in queries_with_documents(load_queries(workspace))]
    never, once = texts[2], texts[5]
    asked: Counter[str] = Counter()

    def answer(body, attempt):
        asked[query_of(body)] += 1
        if query_of(body) == never:
            return completion("Level 3: nothing else")
        if query_of(body) == once and asked[once] == 1:
            return completion(written(body), "length")
        return completion(written(body))

    server.answer = answer
    counts = STAGE.run(workspace)
    assert (asked[never], asked[once]) == (3, 2)
    assert set(asked.values()) == {1, 2, 3}
    prompts = [b["messages"][-1]["content"] for b in server.bodies if query_of(b) == never]
    assert len(set(prompts)) == 3  # other instructions, and another seed
    assert counts["with passages"] == len(texts) - 1
    assert counts["dropped"] == {
        DocumentFault.WRONG_LEVELS: 3,
        DocumentFault.CUT_OFF: 1,
        "no good answer in 3 attempts": 1,
    }
    ids = {query.query_id for query in load_queries(workspace) if query.text == never}
    assert not ids & {document.query_id for document in load_documents(workspace)}


def test_nothing_is_asked_twice_whatever_else_has_changed(workspace, server):
    STAGE.run(workspace)
    first = (workspace.prep / DOCUMENTS_NAME).read_bytes()
    number = len(server.bodies)
    workspace.config.prep.shard_size = 3
    STAGE.run(reopened(workspace))
    assert len(server.bodies) == number
    assert (workspace.prep / DOCUMENTS_NAME).read_bytes() == first
    workspace.config.seed = 1
    STAGE.run(workspace)
    assert len(server.bodies) == 2 * number
    assert (workspace.prep / DOCUMENTS_NAME).read_bytes() != first


def test_a_failed_request_is_not_sent_again_and_too_many_end_the_job(workspace, server):
    bad = load_queries(workspace)[-1].text

    def answer(body, attempt):
        return failure(400, "too long") if query_of(body) == bad else completion(written(body))

    server.answer = answer
    with pytest.raises(UserError, match=r"queries' passages: 1 of \d+ records .*too long"):
        STAGE.run(workspace)
    number = len(server.bodies)
    workspace.config.prep.max_rejects = 0.1
    assert STAGE.run(reopened(workspace))["dropped"] == {"request failed": 1}
    assert len(server.bodies) == number


def test_a_model_that_gives_nothing_good_is_told(workspace, server):
    server.answer = lambda body, attempt: completion("no")
    with pytest.raises(UserError, match=r"no passages: .*no headings"):
        STAGE.run(workspace)


def command(workspace, *flags):
    path = workspace.workdir.with_name("config.py")
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({workspace.config.to_json()!r}))\n"
    )
    module = [sys.executable, "-m", "data_prep.generate_documents", f"--config={path}"]
    return [*module, f"--workdir={workspace.workdir}", *flags]


def test_after_a_sigkill_no_finished_shard_is_asked_again(workspace, prepared, server):
    def slow(body, attempt):
        time.sleep(0.05)
        return completion(written(body))

    server.answer = slow
    process = subprocess.Popen(command(workspace), cwd=ROOT, stderr=subprocess.DEVNULL)
    folder = workspace.prep / "document_answers"
    while len(list(folder.glob("*-*-*.jsonl"))) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    paths = folder.glob("*-*-*.jsonl")
    finished = {line["query_id"] for path in paths for line in read_json_lines(path)}
    assert finished
    before = len(server.bodies)
    STAGE.run(workspace)
    texts = {query.query_id: query.text for query in load_queries(workspace)}
    again = {query_of(body) for body in server.bodies[before:]}
    every = {query.text for query in queries_with_documents(load_queries(workspace))}
    assert again == every - {texts[query_id] for query_id in finished} != set()
    whole = (workspace.prep / DOCUMENTS_NAME).read_bytes()
    other = open_workspace(workspace.config, workspace.workdir.with_name("other"))
    shutil.copytree(prepared.workdir, other.workdir)
    STAGE.run(other)
    assert (other.prep / DOCUMENTS_NAME).read_bytes() == whole


def test_a_dry_run_asks_nothing(workspace, server):
    done = subprocess.run(
        command(workspace, "--dry-run"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    number = len(queries_with_documents(load_queries(workspace)))
    assert f"{number} queries, one prompt each for passages of levels 3, 2, 1, 0" in done.stdout
    assert not server.bodies
    assert not (workspace.prep / "document_answers").exists()


def test_the_costs_of_a_run_count_prompts_for_passages(workspace):
    costs = {cost.stage: cost for cost in estimate(workspace)}
    assert set(costs) == {"corpus", "generate_queries", "generate_documents", "mine"} | {
        "write_tfrecords",
        "all",
    }
    cost = costs["generate_documents"]
    assert (cost.number, cost.what) == (28, "prompts for passages")
    # 2048 tokens an answer, and prompts of a thousand or two.
    assert 28 * 2500 < cost.tokens < 28 * 4500


def test_written_passages_in_the_records(workspace):
    """They follow the corpus, are nobody's candidates, and are entries of their query's list."""
    run_stages(workspace.config, workspace.workdir)
    passages, corpus = PassageSet(workspace.records), PassageSet(workspace.corpus_records)
    assert [passages[row] for row in range(60)] == [corpus[row] for row in range(len(corpus))]
    found = list(load_documents(workspace))
    assert [passages[row] for row in range(60, len(passages))] == [d.passage for d in found]
    for path in candidate_paths(workspace).values():
        assert Candidates.load(path).rows.max() < 60
    assert len(load_passages(workspace).roles.gets_queries) == 60
    manifest = Manifest.read(workspace.records)
    assert manifest.num_passages - manifest.num_synthetic_passages == 60
    assert manifest.prompts["documents"]["model"] == MODEL
    assert manifest.judges == {"human": ["people", "a language model"], "human_dev": ["people"]}
    assert manifest.teachers == []
    qrels = beir.read_qrels(beir.find_qrels(workspace.dataset, "train"))
    records = [source[n] for source in lists_of(workspace) for n in range(len(source))]
    trained = [record for record in records if record.query_type != HUMAN_DEV]
    assert len(trained) == counts_of(workspace)["with passages"]
    for record in trained:
        names = [passages[row].doc_id for row in record.rows.tolist()]
        assert names[0] in qrels[record.query_id]
        assert names[1:4] == [f"synthetic:{record.query_id}:{level}" for level in (3, 2, 0)]
        assert record.labels.tolist() == [3, 3, 2, 0, 0, 0]
        assert not set(names[4:]) & set(qrels[record.query_id])
        assert len(record.teacher_scores) == len(record.raw_scores) == 0
    dev = [record for record in records if record.query_type == HUMAN_DEV]
    assert {record.query_id for record in dev} == {"q1", "q3"}
    assert all(record.rows.max() < 60 for record in dev)
    facts = read_json(workspace.prep / "graded.json")["facts"]["human"]["sources"]
    number = len(trained)
    assert facts["written"] == {
        "label 3": number,
        "label 2": number,
        "label 0": number,
        "lists with fewer than wanted": 0,
    }
    assert np.unique([record.list_id for record in records]).size == len(records)


def test_people_did_not_judge_lists_of_written_passages_alone(workspace):
    with workspace.config.prep.unlocked():
        del workspace.config.prep.graded["real"]
    run_stages(workspace.config, workspace.workdir)
    manifest = Manifest.read(workspace.records)
    assert manifest.num_lists["dev"]["human"] > 0
    assert manifest.judges_of("human") == ["a language model"]
    assert manifest.judges_of(HUMAN_DEV) == ["people"]


def lists_of(workspace):
    return [ListSet(workspace.records, split) for split in ("train", "dev")]


def test_a_second_run_does_nothing_and_teachers_lists_come_back(workspace, capsys):
    names = stages_of(workspace.settings)
    run_stages(workspace.config, workspace.workdir, names)
    capsys.readouterr()
    run_stages(workspace.config, workspace.workdir, names)
    assert capsys.readouterr().out.count("up to date") == len(names) == 6
    config = workspace.config.copy_and_resolve_references()
    config.prep.list_source = "teacher"
    other = run_stages(config, workspace.workdir, ["corpus"])
    assert "generate_documents" not in stages_of(other.settings)
    assert len(PassageSet(workspace.records)) == 60  # without the written ones
