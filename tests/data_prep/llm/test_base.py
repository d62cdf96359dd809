"""Tests of data_prep/llm/base.py; test_llm_openai.py and tests/vllm have the backends."""

import pytest

from data_prep.llm import base, make_llm
from data_prep.llm.base import llm_fingerprint
from data_prep.pipeline.llm_settings import LlmConfig
from ldx.common.errors import UserError

MODEL = "org/writer"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "gpt"}, "wanted vllm or openai"),
        ({"model": ""}, "wanted the name of a model"),
        ({"concurrency": 0}, "concurrency=0: wanted a whole number of at least 1"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"timeout": 0}, "timeout=0: wanted a number over 0"),
        ({"requests_per_minute": -3}, "requests_per_minute=-3"),
        ({"base_url": "127.0.0.1:8000"}, "wanted an address such as http"),
        ({"base_url": ""}, "wanted an address such as http"),
        ({"engine_args": {"trust_remote_code": True}}, "no code of a model is ever run"),
        ({"engine_args": {"load_format": "pt"}}, "wanted safetensors"),
        ({"engine_args": {"revision": "main"}}, "revision is set by config.prep.llm.model"),
        ({"engine_args": 3}, "engine_args=3: wanted names and values"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        LlmConfig(**{"backend": "openai", "model": MODEL} | settings)


@pytest.mark.parametrize(
    "settings",
    [{"base_url": "https://me:hunter2@host/v1"}, {"api_key_env": "sk-hunter2"}],
)
def test_a_secret_in_the_config_is_not_repeated(settings):
    with pytest.raises(UserError, match="environment variable") as raised:
        LlmConfig("openai", MODEL, **settings)
    assert "hunter2" not in str(raised.value)


def test_the_fingerprint_is_of_what_decides_the_answers():
    def of(**settings):
        return llm_fingerprint(LlmConfig(**{"backend": "vllm", "model": "a/b@c0ffee"} | settings))

    same = [
        of(),
        of(concurrency=2, timeout=3.0, max_retries=0, requests_per_minute=5, api_key_env="KEY"),
        of(base_url="http://elsewhere/v1", backend="openai"),
        of(engine_args={"tensor_parallel_size": 4, "gpu_memory_utilization": 0.5}),
    ]
    assert len(set(same)) == 1
    others = [
        of(model="a/b@decade"),
        of(engine_args={"dtype": "float16"}),
        of(engine_args={"dtype": "bfloat16"}),
        of(chat_template_kwargs={"enable_thinking": False}),
        of(chat_template_kwargs={"enable_thinking": True}),
        of(engine_args={"hf_overrides": {"rope_theta": 1.0}}),
    ]
    assert len({same[0], *others}) == 7
    assert of(engine_args={"a": 1, "b": 2}) == of(engine_args={"b": 2, "a": 1})


def test_the_fingerprint_of_a_folder_is_of_its_files(tmp_path, monkeypatch):
    config = LlmConfig("vllm", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        llm_fingerprint(config)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1000))
    first = llm_fingerprint(config)
    (tmp_path / "README.md").write_text("no part of the model")
    assert llm_fingerprint(config) == first
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    second = llm_fingerprint(config)
    assert second != first
    # Large files are sampled: to the last byte where the samples touch each other.
    monkeypatch.setattr(base, "WHOLE_FILE_BYTES", 500)
    monkeypatch.setattr(base, "SAMPLE_BYTES", 100)
    monkeypatch.setattr(base, "NUM_SAMPLES", 10)
    sampled = set()
    for changed in (None, 0, 99, 100, 555, 999):
        content = bytearray(1000)
        if changed is not None:
            content[changed] = 1
        weights.write_bytes(content)
        sampled.add(llm_fingerprint(config))
    assert len(sampled) == 6
    weights.write_bytes(bytes(1001))
    assert llm_fingerprint(config) not in sampled


def test_vllm_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*vllm"):
        make_llm(LlmConfig("vllm", "a/b@c0ffee"))
    with pytest.raises(UserError, match="pip install openai"):
        make_llm(LlmConfig("openai", MODEL))
