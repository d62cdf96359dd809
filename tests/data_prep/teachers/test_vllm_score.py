"""Tests of data_prep/teachers/vllm_score.py with an engine that stands in for vLLM's.

The engine takes what vLLM takes, and computes with transformers; tests/vllm tests the real one.
"""

import sys
import types

import numpy as np
import pytest
import torch
import transformers

from data_prep.llm.vllm_engine import ENVIRONMENT
from data_prep.teachers import make_teacher
from data_prep.teachers.parity import check_parity, transformers_form
from ldx.common.errors import UserError
from tests.data_prep.teacher_models import make_bert, make_language_model, make_t5, random_pairs

PAIRS = random_pairs(20)


class StandIn:
    """vllm.LLM as far as the teacher uses it; `made` holds the arguments of the last one."""

    made: dict = {}  # noqa: RUF012

    def __init__(self, **arguments):
        StandIn.made = arguments
        folder, self.overrides = arguments["model"], arguments["hf_overrides"]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.words = self.overrides.get("classifier_from_token")
        kind = "CausalLM" if self.words else "SequenceClassification"
        auto = getattr(transformers, f"AutoModelFor{kind}")
        self.model = auto.from_pretrained(folder).eval()
        if self.words:
            self.model.config.num_labels = 1
        config = types.SimpleNamespace(hf_config=self.model.config)
        self.llm_engine = types.SimpleNamespace(model_config=config)

    def encode(self, prompts, *, pooling_params, pooling_task, use_tqdm):
        assert pooling_task == "classify"
        assert not use_tqdm
        return [
            types.SimpleNamespace(outputs=types.SimpleNamespace(data=self.logits(prompt, params)))
            for prompt, params in zip(prompts, pooling_params, strict=True)
        ]

    @torch.inference_mode()
    def logits(self, prompt, params):
        ids = torch.tensor([prompt["prompt_token_ids"]])
        assert ids.shape[1] <= StandIn.made["max_model_len"]
        if not self.words:
            types_ids = torch.zeros_like(ids)
            if params.extra_kwargs:
                types_ids[:, params.extra_kwargs["compressed_token_type_ids"] :] = 1
            return self.model(ids, token_type_ids=types_ids).logits[0]
        logits = self.model(ids).logits[0, -1]
        words = logits[self.tokenizer.convert_tokens_to_ids(self.words)]
        method = self.overrides["method"]
        if method == "from_2_way_softmax":
            return words[1:] - words[:1]
        assert (method, len(words)) == ("no_post_processing", 1)
        return words


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restore the environment variables that the teacher sets for vLLM."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def engine(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM = StandIn
    module.PoolingParams = lambda extra_kwargs: types.SimpleNamespace(extra_kwargs=extra_kwargs)
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda folder: make_bert(folder, 1), {}),
        (lambda folder: make_bert(folder, 2), {}),
        (lambda folder: make_bert(folder, 3), {"label_index": 1}),
        (make_language_model, {"template": "qwen3_reranker", "max_length": 500}),
        (
            lambda folder: make_language_model(folder, "Gemma"),
            {"template": "bge_gemma", "max_length": 200},
        ),
    ],
)
def test_same_scores_as_transformers(engine, tmp_path, make, settings):
    folder = make(tmp_path)
    settings = {"kind": "vllm", "model": str(folder), "max_length": 120} | settings
    fast, slow = make_teacher("t", settings), transformers_form("t", settings)
    parity = check_parity(slow, fast, PAIRS)
    assert parity.largest_difference < 1e-5
    assert fast.problems == []
    made = StandIn.made
    assert (made["runner"], made["load_format"]) == ("pooling", "safetensors")
    assert made["hf_overrides"]["problem_type"] == "regression"
    assert not made.get("trust_remote_code", False)


def test_a_bad_pair_does_not_end_the_job(engine, tmp_path):
    settings = {"kind": "vllm", "model": str(make_bert(tmp_path, 1)), "max_length": 40}
    teacher = make_teacher("t", settings)
    good = teacher.score(PAIRS)
    PAIRS_WITH_BAD = random_pairs(20)
    PAIRS_WITH_BAD.queries[3] = "sum " * 50
    scores = teacher.score(PAIRS_WITH_BAD)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3]
    np.testing.assert_allclose(np.delete(scores, 3), np.delete(good, 3), atol=1e-5)


def test_settings(tmp_path):
    language_model = make_language_model(tmp_path / "lm")
    base = {"kind": "vllm", "model": str(language_model)}
    cases = [
        ({}, "set template"),
        ({"template": "bge_gemma", "engine_args": {"trust_remote_code": True}}, "trust_remote"),
        ({"model": str(make_t5(tmp_path / "t5"))}, "use another kind, such as rank_t5"),
        ({"model": str(make_bert(tmp_path / "bert", 1)), "yes": "Yes"}, "says no words"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=f"(?i){message}"):
            make_teacher("t", base | changes)
    one = make_teacher("t", base | {"template": "bge_gemma"})
    args = {"engine_args": {"gpu_memory_utilization": 0.5}}
    assert one.fingerprint == make_teacher("t", base | {"template": "bge_gemma"} | args).fingerprint
    args = {"engine_args": {"quantization": "fp8"}}
    assert one.fingerprint != make_teacher("t", base | {"template": "bge_gemma"} | args).fingerprint


def test_without_vllm(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    settings = {"kind": "vllm", "model": str(make_bert(tmp_path, 1))}
    with pytest.raises(UserError, match=r"pip install '.\[vllm\]"):
        make_teacher("t", settings).score(PAIRS)
