"""What every backend of a language model shares: request, answer, settings, fingerprint."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from data_prep.engines.shards import Made, Payload
from ldx.common.errors import UserError
from ldx.common.files import fingerprint

BACKENDS = ("vllm", "openai")

NEUTRAL_ENGINE_ARGS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "distributed_executor_backend",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "cpu_offload_gb",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "async_scheduling",
    "enforce_eager",
    "compilation_config",
    "max_parallel_loading_workers",
    "download_dir",
    "disable_log_stats",
)
"""Keys of `engine_args` that say how the work is done; every other one may change the answers."""

WHOLE_FILE_BYTES = 2**24  # files up to this size enter a fingerprint whole
SAMPLE_BYTES = 2**16
NUM_SAMPLES = 256


@dataclass(frozen=True)
class Sampling:
    """How the model draws its answer; names and meanings are those of the OpenAI API and vLLM."""

    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 50
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt.

    Attributes:
      messages: of a chat, each with its role (system, user or assistant) and its content.
      sampling: how the answer is drawn.
      seed: of the draw, from 0 to 2^63 − 1. The same request to the same model, on the same
        machine, gives the same answer as far as the backend's arithmetic is repeatable.
    """

    messages: list[dict[str, str]]
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
      text: as the model wrote it; "" where there is an error.
      finish_reason: `stop` (the model ended), `length` (cut at max_tokens), or the backend's own
        word; "" where there is an error before any answer.
      error: why this request failed for good, such as a prompt longer than the model's context;
        "" where it did not.
    """

    text: str
    finish_reason: str
    error: str = ""


class Llm(Protocol):
    """A language model behind one of the backends."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers to requests, in their order.

        May be called from several threads at a time. Many requests in one call are faster than
        many calls.

        Raises:
          UserError: nothing more can be had of the model, as the server is away, refuses the key
            or does not know the model, or the engine does not start. A request that fails alone
            is an `Answer` with an error.
        """

    def close(self) -> None:
        """Give back what the backend holds; it cannot be used afterwards."""


class Questions(Protocol):
    """What is asked of the payload of a shard, and what is kept of the answers; plain values."""

    def requests(self, payload: Payload) -> list[Request]:
        """The requests of a shard."""

    def made(self, payload: Payload, answers: Sequence[Answer]) -> Made:
        """The answers, a JSON object a line with `asked` and what `Answer` has."""


@dataclass(frozen=True)
class LlmConfig:
    """The section `config.prep.llm`.

    Attributes:
      backend: `vllm`: vLLM's engine in this process, on this machine's GPUs; `openai`: any server
        that speaks OpenAI's chat completions, `vllm serve` first of all.
      model: vllm: a folder, or "org/name@REVISION" on the Hugging Face hub, best with a commit
        hash; safetensors only. openai: the name by which the server knows the model.
      base_url: openai: the server's address, up to and with /v1.
      api_key_env: openai: the NAME of the environment variable that holds the key, such as
        OPENAI_API_KEY; "": the server asks for none. The key itself never stands in a config.
      concurrency: openai: requests that are under way at once, over all threads.
      requests_per_minute: openai: the most requests sent in a minute, retries included; None: no
        limit.
      timeout: openai: seconds until a request without an answer counts as failed.
      max_retries: openai: how often a request is sent again after a failed connection, a time-out,
        or status 408, 409, 429 or 5xx. The wait doubles from 0.5 to 8 seconds; a server's
        Retry-After (up to 2 minutes) goes before that.
      send_seed: openai: send each request's seed. Off for servers that refuse the parameter.
      engine_args: vllm: arguments of vllm.LLM, such as {"tensor_parallel_size": 4,
        "max_model_len": 4096, "gpu_memory_utilization": 0.9}.
      chat_template_kwargs: for the model's chat template, such as {"enable_thinking": False} for
        Qwen3. openai: sent as the field of that name, which vLLM and SGLang know.
    """

    backend: str
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
        if self.backend not in BACKENDS:
            raise UserError(
                f"config.prep.llm.backend={self.backend!r}: wanted {' or '.join(BACKENDS)}"
            )
        if not isinstance(self.model, str) or not self.model:
            raise UserError(f"config.prep.llm.model={self.model!r}: wanted the name of a model")
        self._check_numbers()
        if self.backend == "openai":
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
        if "@" in url.netloc:  # not repeated here: it holds a password
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
            raise UserError(  # not repeated here: it may be the key
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


def llm_fingerprint(config: LlmConfig) -> str:
    """A digest of what decides the answers: the model, and what changes what it says.

    It starts nothing and asks no server, which is trusted to serve the model that it names. It is
    silent on the backend (the same model writes alike behind each, and half-done work may go on
    behind another) and on addresses, keys, limits, retries and the cut of the work.

    Raises:
      UserError: the model is a folder that lacks safetensors.
    """
    model, args = config.model, {}
    if config.backend == "vllm":
        args = {k: v for k, v in config.engine_args.items() if k not in NEUTRAL_ENGINE_ARGS}
        folder = Path(model).expanduser()
        model = _folder_fingerprint(folder) if folder.is_dir() else model
    return fingerprint(model, _canonical(args), _canonical(config.chat_template_kwargs))


def _canonical(values: Mapping[str, Any]) -> str:
    return repr(
        sorted((k, _canonical(v) if isinstance(v, Mapping) else v) for k, v in values.items())
    )


def _folder_fingerprint(folder: Path) -> str:
    # Weights can be hundreds of gigabytes and this is asked at every start: of large files the
    # size and many samples are read, in which any training leaves its mark.
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix in (".json", ".txt", ".jinja", ".model", ".safetensors")
    )
    if not any(path.suffix == ".safetensors" for path in paths):
        raise UserError(f"{folder}: no *.safetensors in it; wanted a model in that format")
    parts: list[str | bytes | Path] = []
    for path in paths:
        size = path.stat().st_size
        parts.append(f"{path.name} {size}")
        if size <= WHOLE_FILE_BYTES:
            parts.append(path)
            continue
        with open(path, "rb") as file:
            for i in range(NUM_SAMPLES):
                file.seek(i * (size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
                parts.append(file.read(SAMPLE_BYTES))
    return fingerprint(*parts)
