"""The backend `vllm`: vLLM's offline engine in this process, which batches requests continuously.

This module is written for vLLM 0.32.
"""

import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from data_prep.llm.base import Answer, Request
from data_prep.pipeline.llm_settings import LlmConfig
from ldx.common.errors import UserError, listing
from ldx.common.files import read_json
from ldx.models.locate import resolve_model_path

NEEDS_VLLM = (
    "needs a package: pip install '.[vllm]', best in an environment of its own, which "
    "config.prep.python names"
)
NO_VLLM = (
    f"config.prep.llm.backend='vllm' {NEEDS_VLLM}; or start `vllm serve` elsewhere and set "
    "backend='openai'"
)

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # With a single process, killing it frees the device at once, and errors keep their type.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Environment variables that are set for vLLM unless the user has set them."""


class VllmLlm:
    """An `Llm` whose model runs in this process."""

    def __init__(self, config: LlmConfig):
        """Prepare the backend; the model is not loaded yet.

        Raises:
          UserError: the package vllm is missing.
        """
        if importlib.util.find_spec("vllm") is None:
            raise UserError(NO_VLLM)
        self._config = config
        self._lock = threading.Lock()
        self._engine: Any = None
        self._is_closed = False

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """See `Llm.generate`; where several threads call this, they take turns."""
        with self._lock:
            assert not self._is_closed, "used after close"
            if self._engine is None:
                self._engine = start_engine(self._config)
            refusals = [self._enqueue(request) for request in requests]
            outputs = iter(self._engine.wait_for_completion(use_tqdm=False))
            answers = [refusal or _read(next(outputs)) for refusal in refusals]
            assert next(outputs, None) is None, "an answer of an earlier call that was interrupted"
        return answers

    def close(self) -> None:
        """See `Llm.close`; memory that CUDA itself holds is freed when the process ends."""
        with self._lock:
            self._engine, self._is_closed = None, True

    def _enqueue(self, request: Request) -> Answer | None:
        """Hand a request to the engine; return an answer with an error if the engine refuses it."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError

        sampling = request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            seed=request.seed,
        )
        try:
            self._engine.enqueue_chat(
                [request.messages],
                params,
                add_generation_prompt=True,
                chat_template_kwargs=dict(self._config.chat_template_kwargs) or None,
                use_tqdm=False,
            )
        # One reason is a prompt that is longer than the model's context.
        except (VLLMClientError, ValueError) as error:
            return Answer("", "", " ".join(str(error).split()))
        return None


def start_engine(config: LlmConfig) -> Any:
    """Load the model into a `vllm.LLM`.

    Raises:
      UserError: the model does not exist or lacks safetensors or a chat template, vLLM refuses the
        arguments, or the device has no room.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    folder = resolve_model_path(config.model)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no *.safetensors in it; wanted a model in that format")
    if not _has_chat_template(folder, config):
        raise UserError(
            f"{config.model} has no chat template, in tokenizer_config.json or "
            "chat_template.jinja; take a model that was trained for instructions (its name often "
            "ends in -Instruct or -it)"
        )
    logging.info("vLLM loads %s; this takes minutes for a large model", config.model)
    import vllm
    from vllm.exceptions import VLLMError

    arguments = {"load_format": "safetensors"} | dict(config.engine_args)
    try:
        return vllm.LLM(str(folder), trust_remote_code=False, **arguments)
    except (VLLMError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise UserError(
            f"vLLM cannot start with the model {config.model} and config.prep.llm.engine_args="
            f"{dict(config.engine_args)}:\n{listing(str(error).splitlines())}"
        ) from error


def _has_chat_template(folder: Path, config: LlmConfig) -> bool:
    """Whether the model has a chat template.

    This is True too where the tokenizer is Mistral's or is named in `engine_args`; vLLM checks
    these itself.
    """
    if {"tokenizer", "tokenizer_mode"} & set(config.engine_args):
        return True
    if (folder / "tekken.json").is_file() or any(folder.glob("chat_template*")):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(read_json(path).get("chat_template"))


def _read(output: Any) -> Answer:
    (completion,) = output.outputs
    return Answer(completion.text, completion.finish_reason or "")
