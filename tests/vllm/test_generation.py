"""Tests of data_prep/llm/vllm_engine.py, and of llm/openai_server.py against vLLM's own server."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from data_prep.llm import make_llm
from data_prep.llm.base import Answer, Request, Sampling
from data_prep.pipeline.llm_settings import LlmConfig
from data_prep.queries.prompt import load_prompts
from ldx.common.errors import UserError
from tests.vllm.models import CORPUS, MAX_LENGTH, make_llama

PROMPTS = ["question", "claim", "title", "keywords", "web_search_zero_shot", "web_search_few_shot"]
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=20)
WARM = Sampling(temperature=0.8, top_p=0.95, max_tokens=20)
KEY = "the-key-of-the-test-server"
SECONDS_TO_START = 300
HALF_A_CHARACTER = "\ufffd"  # vLLM leaves it out at the end of an answer


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def offline(llama):
    arguments = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}
    backend = make_llm(LlmConfig("vllm", str(llama), engine_args=arguments))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def server(llama, tmp_path_factory):
    """The address of vLLM's OpenAI-compatible server, on loopback, with a key."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [f"--model={llama}", "--served-model-name=tiny", "--host=127.0.0.1"]
    command += [f"--port={port}", "--dtype=float32", "--enforce-eager", "--max-num-seqs=16"]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = os.environ | {"VLLM_API_KEY": KEY}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(url, process, log):
    end = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()[-5000:]}")


@pytest.fixture
def online(server, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    backend = make_llm(LlmConfig("openai", "tiny", base_url=server, api_key_env="TINY_KEY"))
    yield backend
    backend.close()


def ask(text, sampling=WARM, seed=7):
    return Request([{"role": "user", "content": text}], sampling, seed)


def written_by_transformers(folder, requests):
    """Greedy answers, by transformers' own chat template and generation."""
    import torch
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = []
    for request in requests:
        ids = tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        output = model.generate(ids, max_new_tokens=request.sampling.max_tokens, do_sample=False)
        text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        texts.append(text.rstrip(HALF_A_CHARACTER))
    return texts


def texts_of(answers):
    return [answer.text.rstrip(HALF_A_CHARACTER) for answer in answers]


def requests_of_all_types():
    return [
        Request(prompt.messages(passage, f"doc{i}", seed=0), GREEDY, seed=0)
        for prompt in load_prompts(PROMPTS)
        for i, passage in enumerate(CORPUS[:2])
    ]


def test_offline_answers_are_those_of_transformers(llama, offline):
    requests = requests_of_all_types()
    answers = offline.generate(requests)
    assert len(answers) == 12
    assert texts_of(answers) == written_by_transformers(llama, requests)
    assert len({a.text for a in answers}) > 6
    assert {a.finish_reason for a in answers} <= {"stop", "length"}


def test_server_answers_are_those_of_transformers(llama, online):
    requests = requests_of_all_types()
    answers = online.generate(requests)
    assert texts_of(answers) == written_by_transformers(llama, requests)


@pytest.mark.parametrize("backend", ["offline", "online"])
def test_the_seed_decides_the_answer(backend, request):
    backend = request.getfixturevalue(backend)
    first = backend.generate([ask(CORPUS[i], seed=i) for i in range(4)])
    # In another order, and among others.
    again = backend.generate([ask(CORPUS[i], seed=i) for i in (3, 2)] + [ask("x")])
    assert again[:2] == [first[3], first[2]]
    drawn = backend.generate([ask(CORPUS[0], seed=seed) for seed in range(10)])
    assert len({answer.text for answer in drawn}) > 5
    assert all(answer.error == "" for answer in first + drawn)


@pytest.mark.parametrize("backend", ["offline", "online"])
def test_a_prompt_that_is_too_long_fails_alone(backend, request):
    backend = request.getfixturevalue(backend)
    short, long = ask(CORPUS[0], GREEDY), ask("0123456789 " * MAX_LENGTH, GREEDY)
    answers = backend.generate([short, long, short])
    assert answers[0] == answers[2]
    assert answers[0].error == ""
    assert answers[0].text
    assert answers[1].text == ""
    assert str(MAX_LENGTH) in answers[1].error
    assert backend.generate([short]) == [answers[0]]


@pytest.mark.parametrize("backend", ["offline", "online"])
def test_a_stop_ends_the_answer_before_itself(backend, request):
    backend = request.getfixturevalue(backend)
    (whole,) = backend.generate([ask(CORPUS[0], GREEDY)])
    stop = whole.text[5:7]
    sampling = Sampling(0.0, 1.0, 20, stop=(stop,))
    (answer,) = backend.generate([ask(CORPUS[0], sampling)])
    assert answer == Answer(whole.text[: whole.text.index(stop)], "stop")


def test_a_model_without_a_chat_template(tmp_path):
    folder = make_llama(tmp_path / "base", chat_template=None)
    with pytest.raises(UserError, match="has no chat template"):
        make_llm(LlmConfig("vllm", str(folder))).generate([ask("x")])


def test_models_that_cannot_be_loaded(llama, tmp_path):
    def start(folder, **arguments):
        make_llm(LlmConfig("vllm", str(folder), engine_args=arguments)).generate([ask("x")])

    with pytest.raises(UserError, match="no such folder"):
        start(tmp_path / "nothing")
    pickled = tmp_path / "pickled"
    shutil.copytree(llama, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        start(pickled)
    with pytest.raises(UserError, match="max_modell_len"):
        start(llama, max_modell_len=100)
    with pytest.raises(UserError, match="max_model_len"):
        start(llama, max_model_len=10 * MAX_LENGTH)


def test_a_wrong_key_and_a_wrong_name(server, monkeypatch):
    def generate(**settings):
        config = LlmConfig(**{"backend": "openai", "base_url": server} | settings)
        with contextlib.closing(make_llm(config)) as backend:
            backend.generate([ask("x")])

    monkeypatch.setenv("TINY_KEY", KEY)
    monkeypatch.setenv("WRONG_KEY", "wrong")
    with pytest.raises(UserError, match="know the model 'llama'; it serves tiny"):
        generate(model="llama", api_key_env="TINY_KEY")
    with pytest.raises(UserError, match="refuses the key in the environment variable WRONG_KEY"):
        generate(model="tiny", api_key_env="WRONG_KEY")
    with pytest.raises(UserError, match=f"its API is under {server}"):
        generate(model="tiny", api_key_env="TINY_KEY", base_url=server.removesuffix("/v1"))
