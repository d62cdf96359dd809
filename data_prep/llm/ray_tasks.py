"""Functions that run on the machines of a Ray cluster before and after vLLM (llm/ray_vllm.py)."""

import asyncio
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldx.common.errors import UserError
from ldx.models.locate import resolve_model_path

ERROR = "__inference_error__"
"""The column that marks rows that failed; Ray's stages pass such rows on unchanged."""


class Desk:
    """An actor between the tasks that read shards and the process that has their rows."""

    def __init__(self) -> None:
        """Make a desk where no shard is requested yet."""
        self._requests: asyncio.Queue[int] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}

    async def rows(self, number: int) -> list[Any]:
        """Ask for a shard, and wait for a list that holds one reference to its rows."""
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._requests.put(number)
        return await self._waiting[number]

    async def next_request(self) -> int:
        """Wait for the number of the next shard that a read task asks for."""
        return await self._requests.get()

    async def give(self, number: int, rows: list[Any]) -> None:
        """Bring the rows of a shard to the read task that waits for them."""
        self._waiting.pop(number).set_result(rows)


def read(desk: Any, number: int) -> list[Any]:
    """The rows of a shard, as a block of a Ray dataset."""
    import pyarrow
    import ray

    (rows,) = ray.get(desk.rows.remote(number))
    return [pyarrow.Table.from_pylist(ray.get(rows))]


def encode(
    folder: str, chat_template_kwargs: Mapping[str, Any], row: Mapping[str, Any]
) -> dict[str, Any]:
    """The token ids of a request, and its sampling parameters under vLLM's names."""
    request = json.loads(row["request"])
    sampling = request["sampling"] | {"seed": request["seed"]}
    if not sampling["stop"]:
        del sampling["stop"]
    values = {"sampling_params": sampling, "stop": json.dumps(sampling.get("stop", [])), ERROR: ""}
    try:
        tokens = _tokenizer(folder).apply_chat_template(
            request["messages"],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **chat_template_kwargs,
        )
    except Exception as error:  # templates are programs, which can raise anything
        return values | {"tokenized_prompt": [0], ERROR: f"{type(error).__name__}: {error}"}
    return values | {"tokenized_prompt": tokens}


def decode(folder: str, generation_config: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The text of an answer, and why the answer ended, which Ray's stage does not report."""
    tokens = [int(token) for token in row["generated_tokens"]]
    ended = tokens[-1] in _end_tokens(folder, generation_config)
    stops = json.loads(row["stop"])
    if stops and not ended:
        text = _tokenizer(folder).decode(tokens, skip_special_tokens=True)
        ended = any(stop in text for stop in stops)
    return {
        "shard": row["shard"],
        "place": row["place"],
        "text": row["generated_text"],
        "finish_reason": "stop" if ended else "length",
    }


@functools.cache
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


@functools.cache
def _end_tokens(folder: str, generation_config: str) -> frozenset[int]:
    """The tokens that end an answer, chosen as vLLM chooses them."""
    from transformers import AutoConfig, GenerationConfig

    ends = [_tokenizer(folder).eos_token_id]
    if generation_config != "vllm":
        source = folder if generation_config == "auto" else generation_config
        try:
            config = GenerationConfig.from_pretrained(source, local_files_only=True)
        except OSError:
            model = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            config = GenerationConfig.from_model_config(model)
        eos = config.eos_token_id
        ends += eos if isinstance(eos, list) else [eos]
    return frozenset(token for token in ends if token is not None)


def look(model: str) -> tuple[str, str]:
    """The model's folder on this machine, or "" and why the model cannot be used here."""
    try:
        folder = Path(resolve_model_path(model)).resolve()
    except UserError as error:
        return "", str(error)
    if not any(folder.glob("*.safetensors")):
        return "", f"{folder}: no *.safetensors in it; wanted a model in that format"
    if not getattr(_tokenizer(str(folder)), "chat_template", None):
        return "", f"{folder} has no chat template; take a model that was trained for instructions"
    return str(folder), ""
