"""Tests of data_prep/dense.py."""

import numpy as np
import pytest

from configs import base
from data_prep.dense import EmbeddingStore
from ldx.eval.encode import Encoder, encode_texts
from ldx.models.student import load_student

TEXTS = ["random sample", "drag of the wing", "", "banded linear solver"]


@pytest.fixture
def config(tiny_bert):
    config = base.get_config()
    config.model.path = str(tiny_bert)
    config.model.query_max_length = 32
    config.model.passage_max_length = 64
    config.model.query_prompt = "query "
    return config


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_they_are_those_of_the_model_of_the_config(config, tmp_path, kind):
    embeddings = EmbeddingStore(tmp_path, config).get("some texts", TEXTS, kind)
    student = load_student(**config.model)
    expected = encode_texts(student, student.params, TEXTS, kind=kind)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    assert embeddings.dtype == np.float32
    assert [path.name for path in tmp_path.glob("*.npy")] == ["some_texts.npy"]


def test_stages_share_them_until_texts_or_model_change(config, tmp_path, monkeypatch):
    sizes = []
    embed = Encoder.encode_blocks

    def counted(self, params, texts, **options):
        sizes.append(len(texts))
        return embed(self, params, texts, **options)

    monkeypatch.setattr(Encoder, "encode_blocks", counted)
    for _ in range(2):
        EmbeddingStore(tmp_path, config).get("passages", TEXTS, "passage")
    assert sizes == [4]
    EmbeddingStore(tmp_path, config).get("passages", TEXTS[1:], "passage")
    config.model.dtype = "bfloat16"
    EmbeddingStore(tmp_path, config).get("passages", TEXTS[1:], "passage")
    assert sizes == [4, 3, 3]
