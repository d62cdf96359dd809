"""The backend `openai`: a server that speaks OpenAI's chat completions, such as `vllm serve`."""

import asyncio
import concurrent.futures
import importlib.util
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from data_prep.llm.base import Answer, Request
from data_prep.pipeline.llm_settings import LlmConfig
from ldx.common.errors import UserError
from ldx.common.extras import how_to_install

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_KEY = "none"  # the key that is sent where the server asks for none
NOT_FOUND = (404, 405)
AWAY = (429, 502, 503, 504)
"""Statuses that, after all retries, mean a problem of the server and not of one request."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first and the last time that a request with an odd answer is sent again."""
RETRIES_OF_A_STRANGER = 2
"""How often that is tried where the server has given no answer yet, so that it may not be one."""
_sleep = asyncio.sleep

for _name in ("openai", "httpx2", "httpcore2"):  # they log every request
    logging.getLogger(_name).setLevel(logging.WARNING)


class RateLimiter:
    """Spaces turns evenly, so that there are at most `per_minute` of them in any minute."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        """Make a limiter; where `per_minute` is None, nobody waits for a turn."""
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for a turn; turns are given in the order of the calls."""
        if not self._seconds:
            return
        now = self._clock()
        mine = max(now, self._next)
        self._next = mine + self._seconds
        if mine > now:
            await self._sleep(mine - now)


class OpenAiLlm:
    """An `Llm` that a server runs; its requests run in one event loop, in a thread of its own."""

    def __init__(self, config: LlmConfig):
        """Prepare the client; the server is not asked yet.

        Raises:
          UserError: the package openai, or the environment variable with the key, is missing.
        """
        if importlib.util.find_spec("openai") is None:
            raise UserError(
                f"config.prep.llm.backend='openai' needs a package: {how_to_install('openai')}"
            )
        self._config = config
        self._key = _key_from_environment(config)
        self._limiter = RateLimiter(config.requests_per_minute)
        self._lock = threading.Lock()
        self._started: _Started | None = None
        self._stop: Callable[[], object] = lambda: None
        self._has_answered = self._lists_models = False
        self._is_closed = False

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """See `Llm.generate`."""
        started = self._start()
        work = asyncio.run_coroutine_threadsafe(
            self._generate(started, list(requests)), started.loop
        )
        try:
            return work.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("closed while answers were awaited") from None
        finally:
            work.cancel()  # has an effect only where the caller was interrupted

    def close(self) -> None:
        """See `Llm.close`."""
        with self._lock:
            self._started, self._is_closed = None, True
            self._stop()

    def _start(self) -> "_Started":
        with self._lock:
            assert not self._is_closed, "used after close"
            if self._started is None:
                self._started = _Started(self._config, self._key, self._limiter)
                # Where nobody calls close, this runs when the object or the process ends.
                self._stop = weakref.finalize(self, self._started.stop)
            return self._started

    async def _generate(self, started: "_Started", requests: list[Request]) -> list[Answer]:
        async def answer(request: Request) -> Answer:
            async with started.slots:
                return await self._ask(started.client, request)

        async with started.first_contact:
            if not started.is_checked:
                await self._check_server(started.client)
                started.is_checked = True
        tasks = [asyncio.create_task(answer(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, client: Any, request: Request) -> Answer:
        """The answer to a request; one that is none is asked for again, then set aside."""
        for retry in range(self._config.max_retries + 1):
            if retry:
                await _sleep(min(FIRST_WAIT * 2 ** (retry - 1), LONGEST_WAIT))
            try:
                return await self._ask_once(client, request)
            except _OddAnswer as odd:
                words = self._clean(str(odd))
            if not self._is_known and retry == RETRIES_OF_A_STRANGER:
                break
        if self._is_known:
            return Answer("", "", f"not an answer of OpenAI's chat completions: {words}")
        raise UserError(  # the page of another kind of server
            f"{self._config.base_url}: not an answer of OpenAI's chat completions: {words}. Is "
            "config.prep.llm.base_url right?"
        )

    @property
    def _is_known(self) -> bool:
        """Whether the server has answered, or listed its models: it is of the right kind."""
        return self._has_answered or self._lists_models

    async def _ask_once(self, client: Any, request: Request) -> Answer:
        import openai

        config, sampling = self._config, request.sampling
        optional: dict[str, Any] = {"seed": request.seed} if config.send_seed else {}
        if sampling.stop:
            optional["stop"] = list(sampling.stop)
        if config.chat_template_kwargs:
            optional["extra_body"] = {"chat_template_kwargs": dict(config.chat_template_kwargs)}
        try:
            completion = await client.chat.completions.create(
                model=config.model,
                messages=request.messages,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                **optional,
            )
        except openai.APIStatusError as error:
            # A gateway may answer 403 to a single request because of its content.
            if error.status_code == 401 or (error.status_code == 403 and not self._has_answered):
                raise UserError(self._refused(error)) from None
            if error.status_code in NOT_FOUND:
                raise UserError(await self._not_found(client, error)) from None
            if error.status_code in AWAY:
                raise UserError(self._away(self._words(error))) from None
            return Answer("", "", self._words(error))
        except openai.APIConnectionError as error:
            raise UserError(self._away(self._words(error))) from None
        except (openai.APIError, ValueError) as error:  # such as JSON that is cut, or none
            raise _OddAnswer(f"{type(error).__name__}: {error}") from None
        answer = _read(completion)
        self._has_answered = True
        return answer

    async def _check_server(self, client: Any) -> None:
        """Raise a UserError if the server cannot be reached, or if its address lacks the /v1."""
        import openai

        try:
            models = await _get_models(client)
            self._lists_models = isinstance(models, dict) and "data" in models
        except openai.NotFoundError:
            if base_url := await self._address_with_models(client):
                raise UserError(
                    f"{self._config.base_url}: the server is there, but its API is under "
                    f"{base_url}; set config.prep.llm.base_url to that"
                ) from None
        except openai.APIStatusError:
            pass  # a server that does not list its models may still answer requests
        except openai.APIConnectionError as error:
            raise UserError(self._unreachable(self._words(error))) from None

    async def _address_with_models(self, client: Any) -> str | None:
        import openai

        address = self._config.base_url.rstrip("/")
        base_url = address.removesuffix("/chat/completions")
        if base_url == address:
            base_url += "/v1"
        try:
            await _get_models(client.with_options(base_url=base_url))
        except openai.APIError:
            return None
        return base_url

    async def _not_found(self, client: Any, error: Exception) -> str:
        import openai

        config = self._config
        try:
            names = [str(model["id"]) for model in (await _get_models(client))["data"]]
        except (openai.APIError, LookupError, TypeError):
            names = []
        if names and config.model not in names:
            return (
                f"{config.base_url} does not know the model {config.model!r}; it serves "
                f"{', '.join(names)}. Set config.prep.llm.model"
            )
        return (
            f"{config.base_url}: there are no chat completions, or none of the model "
            f"{config.model!r} ({self._words(error)}). Set config.prep.llm.base_url to the "
            "address up to and including /v1, and config.prep.llm.model to a name that it serves"
        )

    def _refused(self, error: Exception) -> str:
        name = self._config.api_key_env
        key = f"the key in the environment variable {name}" if name else "requests without a key"
        hint = "" if name else "; name the variable that holds one in config.prep.llm.api_key_env"
        return f"{self._config.base_url} refuses {key}{hint}: {self._words(error)}"

    def _unreachable(self, words: str) -> str:
        return (
            f"{self._config.base_url}: no server answers ({words}). Start one, such as\n"
            f"  vllm serve {self._config.model}\n"
            "and wait until it says that it is ready, or set config.prep.llm.base_url"
        )

    def _away(self, words: str) -> str:
        return (
            f"{self._config.base_url}: the server no longer answers, after "
            f"{self._config.max_retries} retries ({words}). Finished work is kept: once the server "
            "answers again, run the same command. If the server is overloaded, lower "
            "config.prep.llm.concurrency or requests_per_minute, or raise timeout"
        )

    def _words(self, error: Exception) -> str:
        body, cause = getattr(error, "body", None), error.__cause__
        words = str(error)
        if isinstance(body, dict) and body.get("message"):
            words = f"status {getattr(error, 'status_code', '')}: {body['message']}"
        elif cause is not None:
            words += f" {type(cause).__name__}: {cause}"
        return self._clean(words)

    def _clean(self, words: str) -> str:
        words = " ".join(words.split())
        if self._key != NO_KEY:
            words = words.replace(self._key, "***")
        return words if len(words) <= 500 else words[:500] + "…"


class _OddAnswer(Exception):
    """What a server sent with status 200 is no answer."""


def _read(completion: Any) -> Answer:
    """The answer in a completion.

    Raises:
      _OddAnswer: there is none, or it is no text.
    """
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if choice is None or message is None:
        raise _OddAnswer(str(completion))
    content = getattr(message, "content", message)
    if content is message:
        raise _OddAnswer(str(completion))
    if isinstance(content, list):  # parts, of which those of other types hold no answer
        texts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
        content = "".join(text for text in texts if isinstance(text, str))
    if content is not None and not isinstance(content, str):
        raise _OddAnswer(str(completion))
    reason = choice.finish_reason
    return Answer(content or "", reason if isinstance(reason, str) else "")


class _Started:
    """The client, and the thread and event loop in which it runs."""

    def __init__(self, config: LlmConfig, key: str, limiter: RateLimiter):
        import httpx2
        import openai

        async def wait_for_turn(request: Any) -> None:
            await limiter.turn()

        # A hook is called for every request, including the client's own retries.
        http_client = openai.DefaultAsyncHttpxClient(
            event_hooks={"request": [wait_for_turn]},
            timeout=httpx2.Timeout(config.timeout, connect=min(10.0, config.timeout)),
            limits=httpx2.Limits(
                max_connections=config.concurrency + 1,
                max_keepalive_connections=config.concurrency,
            ),
            # A proxy that the environment names must not be asked for a server on this machine.
            trust_env=urlsplit(config.base_url).hostname not in LOOPBACK,
        )
        self.client = openai.AsyncOpenAI(
            api_key=key,
            base_url=config.base_url,
            timeout=http_client.timeout,
            max_retries=config.max_retries,
            http_client=http_client,
        )
        self.slots = asyncio.Semaphore(config.concurrency)
        self.first_contact = asyncio.Lock()
        self.is_checked = False
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="llm", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the requests that are under way, and the thread."""
        if threading.current_thread() is self._thread:  # a thread cannot wait for itself
            self.loop.stop()
            return
        asyncio.run_coroutine_threadsafe(self._end_requests(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _end_requests(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()


def _key_from_environment(config: LlmConfig) -> str:
    if not config.api_key_env:
        return NO_KEY
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"config.prep.llm.api_key_env={config.api_key_env!r}: there is no such environment "
            "variable, or it is empty; export it with the server's key"
        )
    return key


async def _get_models(client: Any) -> Any:
    return await client.get("/models", cast_to=object, options={"max_retries": 0})
