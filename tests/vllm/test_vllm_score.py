"""Tests of data_prep/teachers/vllm_score.py with vLLM itself, on tiny random models."""

import numpy as np
import pytest

from data_prep.teachers.cross_encoder import CrossEncoder
from data_prep.teachers.parity import check_parity
from data_prep.teachers.vllm_score import VllmTeacher
from data_prep.teachers.yes_no import YesNo
from tests.data_prep.teacher_models import make_bert, make_language_model, random_pairs

PAIRS = random_pairs(50)
ENGINE = {"enforce_eager": True}


def check(slow, fast):
    parity = check_parity(slow, fast, PAIRS)
    assert parity.num_pairs == 50
    assert parity.largest_difference < 1e-5
    assert np.ptp(slow.score(PAIRS)) > 0.05, "all pairs score alike: nothing is tested"


@pytest.mark.parametrize(("num_labels", "label_index"), [(1, None), (2, None), (3, 1)])
def test_cross_encoder(tmp_path, num_labels, label_index):
    folder = str(make_bert(tmp_path, num_labels))
    shared = {"label_index": label_index, "max_length": 48}
    slow = CrossEncoder(folder, **shared, device="cpu")
    check(slow, VllmTeacher(folder, **shared, engine_args=ENGINE))


def test_logits_beyond_what_a_sigmoid_keeps(tmp_path):
    """In float32 a sigmoid is 1.0 from 17 on."""
    import torch
    import transformers

    folder = str(make_bert(tmp_path, 1))
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight *= 10
        model.classifier.bias += 60
    model.save_pretrained(folder)
    slow = CrossEncoder(folder, max_length=48, device="cpu").score(PAIRS)
    fast = VllmTeacher(folder, max_length=48, engine_args=ENGINE).score(PAIRS)
    assert slow.min() > 17
    np.testing.assert_allclose(fast, slow, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "template"),
    [("Qwen3", "qwen3_reranker"), ("Qwen3", "bge_gemma"), ("Gemma", "bge_gemma"),
     ("Llama", "qwen3_reranker")],
)  # fmt: skip
def test_yes_no(tmp_path, family, template):
    folder = str(make_language_model(tmp_path, family))
    shared = {"template": template, "max_length": 500}
    slow = YesNo(folder, **shared, device="cpu")
    check(slow, VllmTeacher(folder, **shared, engine_args=ENGINE))


def test_the_public_score_is_the_sigmoid(tmp_path):
    """vLLM's own LLM.score, which tokenises and activates by itself, says the same."""
    import vllm

    folder = str(make_bert(tmp_path, 1))
    teacher = VllmTeacher(folder, max_length=128, engine_args=ENGINE)
    pairs = random_pairs(20, seed=1)
    raw = teacher.score(pairs)
    teacher.close()
    arguments = {"runner": "pooling", "dtype": "float32", "load_format": "safetensors"}
    engine = vllm.LLM(folder, **arguments, **ENGINE)
    outputs = engine.score(list(pairs.queries), list(pairs.passages), use_tqdm=False)
    public = np.array([output.outputs.score for output in outputs], np.float64)
    np.testing.assert_allclose(np.log(public / (1 - public)), raw, atol=1e-5)
    pairs.queries[3] = "sum " * 200
    scores = teacher.score(pairs)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3]
    np.testing.assert_allclose(np.delete(scores, 3), np.delete(raw, 3), atol=1e-5)
