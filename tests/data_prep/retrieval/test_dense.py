"""Tests of data_prep/retrieval/dense.py."""

import numpy as np
import pytest

from configs import base
from data_prep.retrieval.dense import DenseModel
from ldx.models.student import load_student
from ldx.retrieval.encoder import encode_texts
from tests.helpers import count_texts

TEXTS = ["random sample", "drag of the wing", "", "banded linear solver"]


@pytest.fixture
def section(tiny_bert):
    section = base.get_config().model.to_dict()
    return section | {
        "path": str(tiny_bert),
        "query_max_length": 32,
        "passage_max_length": 64,
        "query_prompt": "query ",
    }


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_they_are_those_of_the_model_of_the_config(section, tmp_path, kind):
    model = DenseModel("mine", section)
    embeddings = model.embed_to_file(tmp_path, "some texts", TEXTS, kind, "key")
    student = load_student(**section)
    expected = encode_texts(student, student.params, TEXTS, kind=kind)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    np.testing.assert_allclose(model.embed(TEXTS, kind), expected, atol=1e-6)
    assert embeddings.dtype == np.float32
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.npy")] == [
        "embeddings/mine/some_texts.npy"
    ]
    assert model.embed([], kind).shape == (0, 32)


def test_stages_share_them_until_texts_or_model_change(section, tmp_path, monkeypatch):
    sizes = count_texts(monkeypatch)

    def make(texts, key):
        model = DenseModel("mine", section)
        model.embed_to_file(tmp_path, "passages", texts, "passage", key)

    make(TEXTS, "a")
    make(TEXTS, "a")
    assert sizes == [4]
    make(TEXTS[1:], "b")
    section["dtype"] = "bfloat16"
    make(TEXTS[1:], "b")
    assert sizes == [4, 3, 3]
