"""Language models that answer yes or no: Qwen3-Reranker, bge-reranker-v2-gemma, and their like."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.teachers.loading import TransformersTeacher, float32_linear, single_token
from data_prep.teachers.prompts import PromptEncoder, choose_preset
from data_prep.teachers.token_teacher import INPUT_IDS, Encoded, pad


class YesNo(TransformersTeacher):
    """A causal language model, whose next-token logits after the prompt make the score.

    The score is logit(yes) - logit(no), or logit(yes) alone, whichever the model's authors use; see
    data_prep/teachers/prompts.py.

    Args:
      model: a folder, or "org/name@REVISION".
      template: qwen3_reranker, bge_gemma, or the parts of a prompt of one's own.
      instruction: what stands at {instruction}; None: the preset's, and so for the next four.
      yes: the word, one token, that says a passage is relevant.
      no: the word, one token, that says it is not.
      form: difference, logit(yes) - logit(no), or yes, logit(yes) alone.
      max_length: tokens of the prompt; the passage is cut.
      dtype: float32, bfloat16 or float16.
      device: such as cuda:1; auto: a GPU where there is one.
      batch_tokens: the most tokens of a batch, padding included.
    """

    auto_class = "AutoModelForCausalLM"

    def __init__(
        self,
        model: str,
        template: str | Sequence[str],
        *,
        instruction: str | None = None,
        yes: str | None = None,
        no: str | None = None,
        form: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        device: str = "auto",
        batch_tokens: int = 16_384,
    ):
        self._preset = choose_preset(
            template, instruction=instruction, yes=yes, no=no, form=form, max_length=max_length
        )
        super().__init__(
            model,
            repr(self._preset),
            max_length=self._preset.max_length,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
        )

    def prepare(self, model: Any) -> None:
        """Reduce the output layer to the words, and look up which arguments the model takes."""
        preset = self._preset
        self._encoder = PromptEncoder(
            self.tokenizer, preset.prompt, self.max_length, preset.instruction
        )
        tokens = [single_token(self.tokenizer, word) for word in preset.words]
        model.set_output_embeddings(float32_linear(model.get_output_embeddings(), tokens))
        self._parameters = inspect.signature(model.forward).parameters

    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> list[Encoded]:
        """Model input of pairs, each without padding."""
        return self._encoder(queries, passages)

    def forward(self, batch: Sequence[Encoded]) -> np.ndarray:
        """Scores [B] of a batch."""
        import torch

        arrays = pad(batch, {INPUT_IDS: self.pad_id()}, "left")
        if "position_ids" in self._parameters:
            # Left padding must not move a prompt's positions.
            arrays["position_ids"] = np.maximum(arrays["attention_mask"].cumsum(1) - 1, 0)
        only_last = {"logits_to_keep": 1} if "logits_to_keep" in self._parameters else {}
        tensors = self.tensors(arrays)
        with torch.inference_mode():
            logits = self._model(**tensors, **only_last, use_cache=False).logits[:, -1]
            by_word = logits.float().cpu().numpy()
        return by_word[:, 0] - by_word[:, 1] if by_word.shape[1] == 2 else by_word[:, 0]
