"""A guide embeds the records once, a batch takes its rows, and info_nce gets them."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import optax
import pytest

from ldx.common.errors import UserError
from ldx.data.lists import BatchSize, GuideEmbeddings, take_lists
from ldx.data.sources import SourceConfig, open_source
from ldx.losses import info_nce
from ldx.parallel.embedder import Embedder
from ldx.parallel.mesh import make_mesh
from ldx.records.manifest import Manifest
from ldx.records.sets import PassageSet
from ldx.step.objective import make_objective
from ldx.step.train_step import TrainStep
from ldx.training.guide import add_guide, load_guide
from tests import toy
from tests.step.step_problems import Problem, embed, make_planner

INFO_NCE = {"weight": 1.0, "temperature": 0.1, "false_negative_ratio": None, "guide_margin": 0.1}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return toy.make_records(tmp_path_factory.mktemp("records"), num_train=12)


def open_guided(records, tiny_bert, workdir):
    objective = make_objective({"info_nce": INFO_NCE})
    section = {"path": str(tiny_bert), "passage_prompt": "the "}
    guide = load_guide(section, objective)
    source = open_source(
        "toy", SourceConfig(str(records)), Manifest.read(records), folder=workdir / "tokens",
        tokenizer=guide.tokenizer, query_prompt="", passage_prompt="", list_size=None,
        check=lambda where, table: None,
    )  # fmt: skip
    return add_guide({"": source}, guide, workdir)[""]


def test_embeddings_equal_sentence_transformers(records, tiny_bert, tmp_path):
    from sentence_transformers import SentenceTransformer

    source = open_guided(records, tiny_bert, tmp_path)
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    guide = source.train.guide
    assert guide is source.dev.guide
    texts = ["the " + passage.text for passage in PassageSet(records)]
    np.testing.assert_allclose(guide.passages, model.encode(texts), atol=1e-5)
    np.testing.assert_allclose(guide.queries, model.encode(source.query_texts), atol=1e-5)

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "guide").glob("*.npy")}
    assert len(times) == 2
    open_guided(records, tiny_bert, tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def guided_problem():
    """A problem, and a table with embeddings of a guide for its queries and passages."""
    problem = Problem.make(3, num_lists=7, num_passages=24, list_size=6)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(len(x), 5)) for x in (problem.queries, problem.passages)]
    unit = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f") for x in arrays]
    return problem, dataclasses.replace(problem.table(), guide=GuideEmbeddings(*unit))


def test_a_batch_takes_its_rows():
    _, table = guided_problem()
    numbers = np.array([4, 1, 6])
    lists, rows = take_lists(table, numbers, BatchSize(4, 6, 20, guide_size=5))
    np.testing.assert_array_equal(
        lists.guide_queries[:3], table.guide.queries[table.query[numbers]]
    )
    np.testing.assert_array_equal(lists.guide_passages[: len(rows)], table.guide.passages[rows])
    assert not lists.guide_queries[3:].any()
    assert not lists.guide_passages[len(rows) :].any()
    without, _ = take_lists(table, numbers, BatchSize(4, 6, 20))
    assert without.guide_queries is None


def one_step(num_devices, guide_size=5):
    problem, table = guided_problem()
    planner = make_planner(problem, num_devices)
    planner.size = dataclasses.replace(planner.size, guide_size=guide_size)
    step = TrainStep(
        Embedder(embed, make_mesh(num_devices)),
        make_objective({"info_nce": INFO_NCE | {"block_size": 7}}),
        optax.sgd(1.0),
        buffer_rows=planner.buffer_rows,
    )
    state = step.init(problem.params_as(np.float32))
    step.compile(state, planner.shapes, planner.size)
    plan = planner(table, np.arange(7))
    plan.digest()
    state, result = step(state, plan)
    return state.params, result


def test_the_step_gives_it_to_the_loss_on_any_number_of_devices():
    params, result = one_step(1)
    plan, buffer = result.plan, np.asarray(result.embeddings)
    lists = plan.lists
    settings = {key: value for key, value in INFO_NCE.items() if key != "weight"}
    expected = info_nce(
        buffer[plan.query_position], buffer[plan.passages], lists.list_index, None,
        where=lists.where, guide_query_embeddings=lists.guide_queries,
        guide_passage_embeddings=lists.guide_passages, **settings,
    )  # fmt: skip
    value = result.metrics()["info_nce"]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    _, without = one_step(1, guide_size=0)
    assert abs(without.metrics()["info_nce"] - value) > 0.01

    on_eight, result = one_step(8)
    np.testing.assert_allclose(result.metrics()["info_nce"], value, rtol=1e-5)
    for name, array in params.items():
        np.testing.assert_allclose(on_eight[name], array, atol=1e-4)


@pytest.mark.parametrize(
    ("section", "loss", "message"),
    [
        ({"path": "x"}, {"listwise_kl": {"weight": 1.0}}, "config.guide.path='x': only info_nce"),
        ({"path": "", "prompt": "x"}, {"info_nce": INFO_NCE}, "config.guide.prompt: there is no"),
        ({"path": "/no/such"}, {"info_nce": INFO_NCE}, "/no/such"),
    ],
)
def test_mistakes_are_named(section, loss, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_guide(section, make_objective(loss))


def test_a_run_with_a_guide(records, tiny_bert, tmp_path):
    config = toy.write_config(
        tmp_path / "config.py",
        model={"path": str(tiny_bert)},
        guide={"path": str(tiny_bert)},
        data={"records": str(records), "batch_size": 6},
        train={"num_steps": 2, "eval_every": 2},
        loss={"listwise_kl.weight": 0.0, "info_nce.weight": 1.0},
        eval={"split": ""},
    )
    command = [sys.executable, "-m", "ldx.train", f"--config={config}"]
    command.append(f"--workdir={tmp_path / 'run'}")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "run" / "guide").glob("*.npy"))) == 2
    assert "guide" in json.loads((tmp_path / "run" / "fingerprints.json").read_text())
