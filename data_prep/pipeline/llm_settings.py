"""The section `config.prep.llm` of a config as checked, typed values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from ldx.common.errors import UserError


class Backend(StrEnum):
    """What runs a language model."""

    VLLM = "vllm"
    OPENAI = "openai"


@dataclass(frozen=True)
class LlmConfig:
    """The section `config.prep.llm`.

    Where a description begins with a backend's name, the setting has an effect for that backend
    alone.

    Attributes:
      backend: `vllm`, vLLM's engine in this process, on this machine's GPUs; or `openai`, any
        server that speaks OpenAI's chat completions, such as `vllm serve`.
      model: vllm: a folder, or "org/name@REVISION" on the Hugging Face hub, best with a commit
        hash; the weights must be safetensors. openai: the name by which the server knows the model.
      base_url: openai: the server's address, up to and including /v1.
      api_key_env: openai: the NAME of the environment variable that holds the key, such as
        OPENAI_API_KEY; "": the server asks for none. The key itself is never written in a config.
      concurrency: openai: the most requests that are under way at once, over all threads.
      requests_per_minute: openai: the most requests sent in a minute, retries included; None: no
        limit.
      timeout: openai: seconds until a request without an answer counts as failed.
      max_retries: openai: how often a request is sent again after a failed connection, a time-out,
        or status 408, 409, 429 or 5xx. The wait doubles from 0.5 to 8 seconds, unless the server's
        Retry-After (up to 2 minutes) says otherwise.
      send_seed: openai: whether to send each request's seed; some servers refuse the parameter.
      engine_args: vllm: arguments of vllm.LLM, such as {"tensor_parallel_size": 4,
        "max_model_len": 4096, "gpu_memory_utilization": 0.9}.
      chat_template_kwargs: arguments of the model's chat template, such as {"enable_thinking":
        False} for Qwen3. They are sent to an openai server as the field of that name, which vLLM
        and SGLang know.
    """

    backend: Backend
    model: str
    base_url: str = "http://127.0.0.1:8000/v1"
    api_key_env: str = ""
    concurrency: int = 64
    requests_per_minute: float | None = None
    timeout: float = 600.0
    max_retries: int = 8
    send_seed: bool = True
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.backend not in list(Backend):
            raise UserError(
                f"config.prep.llm.backend={self.backend!r}: wanted {' or '.join(Backend)}"
            )
        object.__setattr__(self, "backend", Backend(self.backend))
        if not isinstance(self.model, str) or not self.model:
            raise UserError(f"config.prep.llm.model={self.model!r}: wanted the name of a model")
        self._check_numbers()
        if self.backend == Backend.OPENAI:
            self._check_address()
        for key in ("engine_args", "chat_template_kwargs"):
            value = getattr(self, key)
            if not isinstance(value, Mapping):
                raise UserError(f"config.prep.llm.{key}={value!r}: wanted names and values")
        self._check_engine_args()

    def _check_numbers(self) -> None:
        for key, least in (("concurrency", 1), ("max_retries", 0)):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(
                    f"config.prep.llm.{key}={value!r}: wanted a whole number of at least {least}"
                )
        for key in ("timeout", "requests_per_minute"):
            value = getattr(self, key)
            if key == "requests_per_minute" and value is None:
                continue
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise UserError(f"config.prep.llm.{key}={value!r}: wanted a number over 0")

    def _check_address(self) -> None:
        url = urlsplit(self.base_url)
        if "@" in url.netloc:  # the message does not repeat the address, which holds a password
            raise UserError(
                "config.prep.llm.base_url holds a user name or a password; give the key in an "
                "environment variable, and name that in config.prep.llm.api_key_env"
            )
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UserError(
                f"config.prep.llm.base_url={self.base_url!r}: wanted an address such as "
                "http://127.0.0.1:8000/v1"
            )
        if self.api_key_env and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise UserError(  # the message does not repeat the value, which may be the key
                "config.prep.llm.api_key_env is not the name of an environment variable in "
                "capitals, such as OPENAI_API_KEY; if it is the key itself, take it out of the "
                "config and put it into such a variable"
            )

    def _check_engine_args(self) -> None:
        where = "config.prep.llm.engine_args"
        if self.engine_args.get("trust_remote_code"):
            raise UserError(
                f"{where}: trust_remote_code is not supported; no code of a model is ever run"
            )
        if self.engine_args.get("load_format") in ("auto", "pt", "npcache"):
            raise UserError(f"{where}: load_format: wanted safetensors; others may hold pickles")
        for key in ("model", "revision", "seed"):
            if key in self.engine_args:
                instead = "config.seed" if key == "seed" else "config.prep.llm.model"
                raise UserError(f"{where}: {key} is set by {instead}")
