"""What the training data let a run hope for."""

import dataclasses

import pytest

from ldx.records.manifest import NDCG_BY_WEIGHT, Manifest
from ldx.training.advice import read_advice, report_advice, teacher_advice
from ldx.training.checkpoint import Progress
from ldx.training.dev_values import DevValues, write_dev_values
from ldx.training.verdict import judge
from tests import toy

HYBRID = {
    "name": "mine",
    "kind": "hybrid",
    "retrievers": {"bm25": {"kind": "bm25"}, "student": {"kind": "dense"}},
}


@pytest.fixture
def manifest(tmp_path):
    return Manifest.read(toy.make_records(tmp_path / "records"))


def with_curve(manifest, curve, **teacher):
    facts = {NDCG_BY_WEIGHT: curve, "choice": "the cloze task"}
    return dataclasses.replace(
        manifest, teachers=[HYBRID | teacher], yields={"score": {"pairs": 9, "mine": facts}}
    )


def test_a_teacher_that_is_no_better_than_the_student(manifest):
    curve = {"0.0": 0.2, "0.5": 0.31, "1.0": 0.32}
    advice = teacher_advice(with_curve(manifest, curve))
    assert advice.startswith("the teacher is the limit: by the cloze task, no hybrid")
    assert "(nDCG@10 0.3200)" in advice
    assert teacher_advice(with_curve(manifest, curve | {"0.5": 0.33})) == ""


def test_of_other_teachers_nothing_is_said(manifest):
    curve = {"0.5": 0.31, "1.0": 0.32}
    assert teacher_advice(manifest) == ""
    assert teacher_advice(with_curve(manifest, curve, kind="cross_encoder")) == ""
    other = {"bm25": {"kind": "bm25"}, "bge": {"kind": "dense", "path": "bge"}}
    assert teacher_advice(with_curve(manifest, curve, retrievers=other)) == ""
    two = dataclasses.replace(with_curve(manifest, curve), teachers=[HYBRID, HYBRID])
    assert teacher_advice(two) == ""


def test_it_is_told_before_training_and_under_the_verdict(manifest, tmp_path, caplog):
    limited = with_curve(manifest, {"0.5": 0.3, "1.0": 0.32})
    coverage = {"lists": 40, "passages": 90, "first": 9, "first_10": 10, "anywhere": 90}
    few = dataclasses.replace(manifest, yields={"write_tfrecords": {"coverage": coverage}})
    report_advice(tmp_path, {"one": limited, "two": few})
    assert "one: the teacher is the limit" in caplog.text
    assert "two: there are few training queries" in caplog.text
    write_dev_values(tmp_path, 0, DevValues({}, {"q0": 0.5}, "human queries"))
    advice = judge(tmp_path, Progress(step=0, best_step=0)).advice
    assert advice == tuple(read_advice(tmp_path))
    assert [each[:5] for each in advice] == ["one: ", "two: "]


def test_a_run_without_it_is_read(tmp_path):
    assert read_advice(tmp_path) == []
