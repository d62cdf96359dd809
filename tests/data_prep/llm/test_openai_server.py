"""Tests of data_prep/llm/openai_server.py against a small server on loopback."""

import asyncio
import gc
import logging
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from data_prep.llm import make_llm, openai_server
from data_prep.llm.base import Answer, Request, Sampling
from data_prep.pipeline.llm_settings import LlmConfig
from ldx.common.errors import UserError
from tests.data_prep.llm_server import MODEL, Server, completion, failure

SAMPLING = Sampling(temperature=0.8, top_p=0.95, max_tokens=50)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def make(server):
    """Makes backends of that server, and closes them."""
    made = []

    def make(**settings):
        settings = {"base_url": server.base_url, "model": MODEL} | settings
        made.append(make_llm(LlmConfig(backend="openai", **settings)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def waits(monkeypatch):
    """The back-offs of the client, in seconds; they take no time."""
    seconds = []

    async def sleep(delay):
        seconds.append(delay)
        await asyncio.sleep(0)

    monkeypatch.setattr("anyio.sleep", sleep)
    monkeypatch.setattr("data_prep.llm.openai_server._sleep", sleep)
    return seconds


def request(text):
    messages = [{"role": "system", "content": "Write."}, {"role": "user", "content": text}]
    return Request(messages, SAMPLING, 7)


def test_answers_come_in_the_order_of_the_requests(server, make):
    # Every second request is answered late.
    late = threading.Event()

    def answer(body, attempt):
        number = int(body["messages"][-1]["content"])
        if number % 2:
            late.wait(10)
        elif number == 8:
            late.set()
        return completion(f"answer {number}")

    server.answer = answer
    answers = make(concurrency=16).generate([request(str(i)) for i in range(10)])
    assert answers == [Answer(f"answer {i}", "stop") for i in range(10)]


def test_what_is_sent(server, make):
    backend = make(chat_template_kwargs={"enable_thinking": False})
    sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=50, stop=("\n", "Passage:"))
    backend.generate([Request(request("one").messages, sampling, 2**63 - 1)])
    (body,) = server.bodies
    assert body == {
        "model": MODEL,
        "messages": request("one").messages,
        "temperature": 0.8,
        "top_p": 0.95,
        "max_tokens": 50,
        "stop": ["\n", "Passage:"],
        "seed": 2**63 - 1,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    make(send_seed=False).generate([request("two")])
    assert not {"seed", "stop", "chat_template_kwargs"} & set(server.bodies[-1])


def test_concurrency_is_bounded_over_all_threads(server, make):
    together = threading.Barrier(3)

    def answer(body, attempt):
        together.wait(10)  # breaks unless three requests are under way at once
        time.sleep(0.02)  # a fourth would come in meanwhile
        return completion("x")

    server.answer = answer
    backend = make(concurrency=3, max_retries=0)
    batches = [[request(f"{thread} {i}") for i in range(6)] for thread in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(backend.generate, batches))
    assert answers == [[Answer("x", "stop")] * 6] * 4
    assert server.peak == 3
    assert server.paths.count("/v1/models") == 1


def test_failures_that_pass_are_retried(server, make, waits):
    def answer(body, attempt):
        if attempt == 1:
            return failure(429, "slow down", Retry_After="7")
        return failure(500, "oops") if attempt == 2 else completion("at last")

    server.answer = answer
    assert make().generate([request("x")]) == [Answer("at last", "stop")]
    assert len(server.bodies) == 3
    assert waits[0] == 7
    assert 0 < waits[1] <= 2


def test_a_request_that_fails_for_good_is_an_answer_with_an_error(server, make, waits):
    def answer(body, attempt):
        text = body["messages"][-1]["content"]
        special = {
            "long": failure(400, "This model's maximum context length is 4096 tokens"),
            "bad": failure(500, "this one breaks the server"),
            "rude": completion("half an ans", "content_filter"),
            "flagged": failure(403, "your input was flagged"),
            "empty": completion(None, "length"),
        }
        return special.get(text, completion("fine"))

    server.answer = answer
    backend = make(max_retries=2, concurrency=1)
    texts = ["good", "long", "bad", "rude", "flagged", "empty", "good"]
    answers = backend.generate([request(text) for text in texts])
    assert [a.error for a in answers] == [
        "",
        "status 400: This model's maximum context length is 4096 tokens",
        "status 500: this one breaks the server",
        "",  # stopped by a filter: an answer, that data_prep.queries.answer takes for a refusal
        "status 403: your input was flagged",
        "",
        "",
    ]
    assert [a.text for a in answers] == ["fine", "", "", "half an ans", "", "", "fine"]
    assert answers[3].finish_reason == "content_filter"
    assert answers[5].finish_reason == "length"
    sent = Counter(body["messages"][-1]["content"] for body in server.bodies)
    assert sent == {"good": 2, "long": 1, "bad": 3, "rude": 1, "flagged": 1, "empty": 1}


def free_address():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/v1"


def test_no_server(make, waits):
    address = free_address()
    with pytest.raises(UserError, match=f"{address}: no server answers") as raised:
        make(base_url=address).generate([request("x")])
    assert f"vllm serve {MODEL}" in str(raised.value)
    assert waits == []  # not after minutes of retries


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_goes_away_ends_the_call(server, make, waits, status):
    def answer(body, attempt):
        gone = body["messages"][-1]["content"] == "second"
        return failure(status, "come back later") if gone else completion("x")

    server.answer = answer
    backend = make(max_retries=3)
    assert backend.generate([request("first")]) == [Answer("x", "stop")]
    with pytest.raises(UserError, match=r"no longer answers, after 3 retries .*come back later"):
        backend.generate([request("second"), request("third")])
    assert len(waits) == 3
    assert backend.generate([request("fourth")]) == [Answer("x", "stop")]


def test_time_outs_end_the_call(server, make, waits):
    done = threading.Event()
    server.answer = lambda body, attempt: completion("x") if done.wait(10) else None
    with pytest.raises(UserError, match="raise timeout"):
        make(timeout=0.3, max_retries=1).generate([request("x")])
    done.set()
    assert len(waits) == 1


def test_address_without_v1(server, make):
    base = server.base_url.removesuffix("/v1")
    for wrong in (base, f"{base}/", f"{server.base_url}/chat/completions"):
        with pytest.raises(UserError, match=f"its API is under {server.base_url}; set"):
            make(base_url=wrong).generate([request("x")])
    assert not server.bodies


def test_unknown_model(server, make):
    server.answer = lambda body, attempt: failure(404, "The model `other` does not exist.")
    with pytest.raises(UserError, match=f"know the model 'other'; it serves {MODEL}"):
        make(model="other").generate([request("x")])
    server.models = lambda: failure(404, "not listed here")
    with pytest.raises(UserError, match="The model `other` does not exist"):
        make(model="other").generate([request("x")])


def test_a_server_need_not_list_its_models(server, make):
    server.models = lambda: failure(501, "not implemented")
    assert make(max_retries=0).generate([request("x")]) == [Answer("echo x", "stop")]


def with_message(message):
    status, content = completion("")
    return status, content | {"choices": [{"index": 0, "message": message}]}


ODD = {
    "choices null": (200, completion("")[1] | {"choices": None}),
    "choices empty": (200, completion("")[1] | {"choices": []}),
    "choices of another kind": (200, completion("")[1] | {"choices": "none"}),
    "message null": with_message(None),
    "message a text": with_message("fine"),
    "no message": (200, completion("")[1] | {"choices": [{"index": 0}]}),
    "content a number": completion(7),
    "content an object": completion({"text": "x"}),
    "a list": (200, []),
    "cut JSON": (200, '{"id": "1", "choices": [{"mess', {"Content_Type": "application/json"}),
    "nothing": (200, "", {"Content_Type": "application/json"}),
    "a page": (200, "<html>busy</html>"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_is_one_failed_request(server, make, waits, odd):
    """It is asked for again, and set aside where it stays odd; the others are answered."""

    def answer(body, attempt):
        text = body["messages"][-1]["content"]
        is_odd = text == "always" or (text == "once" and attempt == 1)
        return ODD[odd] if is_odd else completion("fine")

    server.answer = answer
    backend = make(max_retries=2, concurrency=1)
    answers = backend.generate([request(text) for text in ("good", "once", "always", "good")])
    assert [a.text for a in answers] == ["fine", "fine", "", "fine"]
    assert [bool(a.error) for a in answers] == [False, False, True, False]
    assert "not an answer of OpenAI's chat completions" in answers[2].error
    sent = Counter(body["messages"][-1]["content"] for body in server.bodies)
    assert sent == {"good": 2, "once": 2, "always": 3}


def test_a_filtered_prompt_that_comes_first_ends_nothing(server, make, waits):
    """The others are still under way when it has failed for good."""
    slow = threading.Event()

    def answer(body, attempt):
        if body["messages"][-1]["content"] == "filtered":
            if attempt == 3:
                slow.set()
            return ODD["choices empty"]
        slow.wait(10)
        return completion("fine")

    server.answer = answer
    answers = make(max_retries=2).generate([request(text) for text in ("filtered", "a", "b")])
    assert [a.text for a in answers] == ["", "fine", "fine"]
    assert answers[0].error


def test_parts_of_text_are_joined(server, make):
    parts = [
        {"type": "text", "text": "how to "},
        {"type": "image"},
        {"type": "text", "text": "sort"},
    ]
    server.answer = lambda body, attempt: completion(parts)
    assert make().generate([request("x")]) == [Answer("how to sort", "stop")]


def test_another_kind_of_server(server, make, waits):
    server.answer = lambda body, attempt: (200, "<html>Welcome to nginx</html>")
    server.models = lambda: (200, "<html>Welcome to nginx</html>")
    with pytest.raises(UserError, match="not an answer of OpenAI's chat completions"):
        make().generate([request("x")])


def test_the_key_is_sent_and_never_told(server, make, monkeypatch, caplog):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("WRITER_KEY", key)
    for name in ("", "openai", "httpx2", "httpcore2", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    backend = make(api_key_env="WRITER_KEY")
    backend.generate([request("x")])
    assert server.headers[-1]["Authorization"] == f"Bearer {key}"
    server.answer = lambda body, attempt: failure(401, f"Incorrect API key provided: {key}")
    with pytest.raises(UserError, match="WRITER_KEY") as raised:
        backend.generate([request("x")])
    server.answer = lambda body, attempt: failure(400, f"bad request with {key}")
    (answer,) = backend.generate([request("x")])
    assert "***" in answer.error
    told = [str(raised.value), repr(raised.value), answer.error, repr(backend), caplog.text]
    assert not any(key in text for text in told)
    assert raised.value.__cause__ is None


def test_no_key_of_another_service_is_sent(server, make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    make().generate([request("x")])
    assert server.headers[-1]["Authorization"] == f"Bearer {openai_server.NO_KEY}"
    server.answer = lambda body, attempt: failure(401, "key wanted")
    with pytest.raises(UserError, match=r"without a key; name the variable .*api_key_env"):
        make().generate([request("x")])


def test_a_missing_key_is_told_at_once(make, monkeypatch):
    monkeypatch.delenv("WRITER_KEY", raising=False)
    with pytest.raises(UserError, match="'WRITER_KEY': there is no such environment variable"):
        make(api_key_env="WRITER_KEY")


def test_no_minute_has_more_turns_than_the_limit():
    now, times = [100.0], []

    async def sleep(seconds):
        now[0] += seconds

    async def take_turns():
        limiter = openai_server.RateLimiter(30, lambda: now[0], sleep)
        for i in range(200):
            await limiter.turn()
            times.append(now[0])
            if i == 90:
                now[0] += 300  # a pause gives no right to a burst

    asyncio.run(take_turns())
    # Half a millisecond for the rounding of sums of seconds.
    most = max(sum(start <= t < start + 60 - 5e-4 for t in times) for start in times)
    assert most == 30


def test_all_that_is_sent_takes_a_turn(server, make, monkeypatch, waits):
    turns = []
    limit = openai_server.RateLimiter.turn

    async def turn(self):
        turns.append(self._seconds)
        await limit(self)

    monkeypatch.setattr(openai_server.RateLimiter, "turn", turn)
    server.answer = lambda body, attempt: completion("x") if attempt > 2 else failure(500, "no")
    make(requests_per_minute=60_000).generate([request(str(i)) for i in range(3)])
    assert len(server.bodies) == 9
    assert turns == [0.001] * len(server.paths) == [0.001] * 10


def test_close_ends_what_is_under_way(server, make):
    asked, closed = threading.Event(), threading.Event()

    def answer(body, attempt):
        asked.set()
        closed.wait(10)
        return completion("too late")

    server.answer = answer
    backend = make()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.generate, [request("x")])
        assert asked.wait(10)
        backend.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(10)
    closed.set()
    with pytest.raises(AssertionError, match="used after close"):
        backend.generate([request("x")])


def test_a_backend_that_nobody_closes_ends_with_its_last_reference(server):
    before = set(threading.enumerate())
    backend = make_llm(LlmConfig("openai", MODEL, base_url=server.base_url))
    backend.generate([request("x")])
    (thread,) = [t for t in set(threading.enumerate()) - before if t.name == "llm"]
    del backend
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_server_that_is_stopped(make, waits):
    def drop_the_connection(body, attempt):
        raise ConnectionAbortedError

    own = Server()
    backend = make(base_url=own.base_url, max_retries=2)
    try:
        assert backend.generate([request("x")])[0].error == ""
    finally:
        own.stop()
    own.answer = drop_the_connection
    with pytest.raises(UserError, match="no longer answers, after 2 retries") as raised:
        backend.generate([request("y")])
    assert own.base_url in str(raised.value)
