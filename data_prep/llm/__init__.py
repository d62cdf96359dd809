"""A language model, whatever it is asked for: backends, requests, answers, asking again."""

from data_prep.llm.base import Llm
from data_prep.pipeline.llm_settings import LlmConfig


def make_llm(config: LlmConfig) -> Llm:
    """The language model that a config names; it is started by the first `generate`.

    Raises:
      UserError: the backend's package or the key is missing.
    """
    if config.backend == "openai":
        from data_prep.llm.openai_server import OpenAiLlm

        return OpenAiLlm(config)
    from data_prep.llm.vllm_engine import VllmLlm

    return VllmLlm(config)
