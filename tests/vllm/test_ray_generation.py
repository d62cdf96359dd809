"""Tests of data_prep/ray_generation.py: Ray Data's vLLM stage, beside vLLM in this process."""

import functools
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("vllm")
pytest.importorskip("ray")

from data_prep.engine import LocalEngine
from data_prep.llm import LlmConfig
from data_prep.prompts import Sampling, load_prompts
from data_prep.query_sources import Asking, Questions
from data_prep.ray_engine import RayEngine
from data_prep.ray_generation import RayGeneration
from data_prep.shards import Shard
from ldx.errors import UserError
from tests.vllm.models import CORPUS, MAX_LENGTH, make_llama

# Unchunked: of prompts that are worked off in pieces, a CPU cannot draw with a seed.
ARGS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}
ARGS |= {"max_num_batched_tokens": 32_768}


def begin_with_bos(folder):
    """Make the tokenizer put <|begin|> before every text, as Llama's does, and the template too."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    begin = {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": begin},
    }
    path.write_text(json.dumps(tokenizer))
    template = folder / "chat_template.jinja"
    template.write_text("<|begin|>" + template.read_text())


def end_often(folder):
    """Raise the odds of <|end|>, so that some answers stop by themselves."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][1] *= 3
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = make_llama(tmp_path_factory.mktemp("models") / "llama")
    begin_with_bos(folder)
    end_often(folder)
    return folder


@pytest.fixture(scope="module")
def questions():
    first, second, third = load_prompts(["question", "web_search_few_shot", "title"])
    sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=12)
    prompts = [
        replace(first, sampling=sampling),
        replace(second, sampling=replace(sampling, stop=("a", "th"))),
        replace(third, sampling=replace(sampling, temperature=0.0)),
    ]
    return Questions({prompt.query_type: prompt for prompt in prompts}, seed=3)


@pytest.fixture(scope="module")
def shards(questions):
    """Nine shards of all types; one passage is far too long for the model."""
    texts = [f"{CORPUS[i % 5]} {i}" for i in range(20)]
    texts[7] = "0123456789 " * MAX_LENGTH

    def payload(query_type, start):
        places = range(start, min(start + 8, 20))
        return {
            "query_type": query_type,
            "attempt": 0,
            "rows": list(places),
            "doc_ids": [f"d{i}" for i in places],
            "passages": [texts[i] for i in places],
        }

    return [
        Shard(f"{name}-{start}", "key", min(8, 20 - start), functools.partial(payload, name, start))
        for name in questions.prompts
        for start in range(0, 20, 8)
    ]


@pytest.fixture(scope="module")
def cluster():
    import ray

    yield
    ray.shutdown()


def make(engine, llm, questions, shards):
    done = engine.run(functools.partial(Asking, llm, questions), shards, num_workers=1)
    return {shard.name: made for shard, made in done}


def test_answers_are_those_of_vllm_in_this_process(cluster, llama, questions, shards):
    llm = LlmConfig("vllm", str(llama), engine_args=ARGS)
    wanted = make(LocalEngine(), llm, questions, shards)
    found = make(RayGeneration(RayEngine(), llm, questions), llm, questions, shards)
    assert found.keys() == wanted.keys()
    for name, made in wanted.items():
        lines = [json.loads(line) for line in made.content.decode().splitlines()]
        print(name, lines[:3])
    for name, made in wanted.items():
        assert found[name].content.decode() == made.content.decode()
        assert found[name] == made
