"""What all backends of language models share: requests, answers, and the fingerprint of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data_prep.pipeline.llm_settings import Backend, LlmConfig
from ldx.common.errors import UserError
from ldx.common.files import fingerprint

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
"""Keys of `engine_args` that say how the work is done; every other key may change the answers."""

CHARS_PER_TOKEN = 4.0  # an estimate for English, for counting without a tokenizer

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
    """A request for one answer.

    Attributes:
      messages: the messages of a chat, each with its role (system, user or assistant) and its
        content.
      sampling: how the answer is drawn.
      seed: the seed of the draw, from 0 to 2^63 − 1. The same request to the same model, on the
        same machine, gives the same answer as far as the backend's arithmetic is repeatable.
    """

    messages: list[dict[str, str]]
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Answer:
    """The answer to a request, or why there is none.

    Attributes:
      text: the answer as the model wrote it; "" where there is an error.
      finish_reason: `stop` (the model ended), `length` (cut at max_tokens), or the backend's own
        word; "" where the request failed before there was any answer.
      error: why the request failed for good, such as a prompt longer than the model's context;
        "" where it did not fail.
    """

    text: str
    finish_reason: str
    error: str = ""


class Llm(Protocol):
    """A language model behind one of the backends."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers to requests, in the order of the requests.

        Several threads may call this at a time. Many requests in one call are faster than many
        calls.

        Raises:
          UserError: the model gives no more answers, because the server is away, refuses the key
            or does not know the model, or because the engine does not start. Where a single
            request fails, its `Answer` holds the error.
        """

    def close(self) -> None:
        """Free what the backend holds; it cannot be used afterwards."""


def llm_fingerprint(config: LlmConfig) -> str:
    """A hash of what decides the answers: the model, and the settings that change what it writes.

    No engine is started and no server is asked; a server is trusted to serve the model that it
    names. The backend is not part of the hash, because the same model writes alike behind each, and
    half-done work may go on behind another. Neither are addresses, keys, limits, retries and the
    size of shards.

    Raises:
      UserError: the model is a folder without safetensors.
    """
    model, args = config.model, {}
    if config.backend == Backend.VLLM:
        args = {k: v for k, v in config.engine_args.items() if k not in NEUTRAL_ENGINE_ARGS}
        folder = Path(model).expanduser()
        model = _folder_fingerprint(folder) if folder.is_dir() else model
    return fingerprint(model, _canonical(args), _canonical(config.chat_template_kwargs))


def _canonical(values: Mapping[str, Any]) -> str:
    return repr(
        sorted((k, _canonical(v) if isinstance(v, Mapping) else v) for k, v in values.items())
    )


def _folder_fingerprint(folder: Path) -> str:
    # Weights can be hundreds of gigabytes, and this runs at every start. So of a large file only
    # the size and many samples are read; any further training changes some of these samples.
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
