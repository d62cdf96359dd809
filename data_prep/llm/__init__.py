"""Language models: backends, requests, answers, and asking again after bad answers."""

from data_prep.llm.base import Llm
from data_prep.pipeline.llm_settings import Backend, LlmConfig


def make_llm(config: LlmConfig) -> Llm:
    """The language model that a config names; the first call of `generate` starts it.

    Raises:
      UserError: the backend's package or the server's key is missing.
    """
    if config.backend == Backend.OPENAI:
        from data_prep.llm.openai_server import OpenAiLlm

        return OpenAiLlm(config)
    from data_prep.llm.vllm_engine import VllmLlm

    return VllmLlm(config)
