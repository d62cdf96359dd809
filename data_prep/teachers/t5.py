"""T5 rerankers: RankT5 and monoT5, whose first output token says how relevant a passage is.

The encoder-only variants of RankT5 are not here: they have a head of their own that no class of
transformers reads.
"""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.teachers.loading import TransformersTeacher, float32_linear, single_token
from data_prep.teachers.prompts import PairPrompt, PromptEncoder
from data_prep.teachers.token_teacher import INPUT_IDS, Encoded, pad
from ldx.common.errors import UserError

RANK_T5_TOKEN = "<extra_id_10>"


class T5Ranker(TransformersTeacher):
    """The base of T5 rerankers: the encoder reads the pair, and the decoder takes one step."""

    auto_class = "T5ForConditionalGeneration"
    prompt: PairPrompt
    _words: tuple[str, ...]

    def prepare(self, model: Any) -> None:
        """Reduce the output layer to the words that the score is made of."""
        self._encoder = PromptEncoder(self.tokenizer, self.prompt, self.max_length)
        self._start = model.config.decoder_start_token_id
        if self._start is None:
            raise UserError(f"{self.folder / 'config.json'}: has no decoder_start_token_id")
        tokens = [single_token(self.tokenizer, word) for word in self._words]
        model.set_output_embeddings(float32_linear(model.get_output_embeddings(), tokens))

    @abc.abstractmethod
    def score_of_logits(self, logits: Any) -> Any:
        """Scores [B] of float32 logits [B, num_words] of the first decoder step."""

    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> list[Encoded]:
        """Model input of pairs, each without padding."""
        return self._encoder(queries, passages)

    def forward(self, batch: Sequence[Encoded]) -> np.ndarray:
        """Scores [B] of a batch."""
        import torch

        tensors = self.tensors(pad(batch, {INPUT_IDS: self.pad_id()}, "right"))
        with torch.inference_mode():
            start = torch.full((len(batch), 1), self._start, device=self.device)
            logits = self._model(**tensors, decoder_input_ids=start, use_cache=False).logits
            scores: np.ndarray = self.score_of_logits(logits[:, 0]).cpu().numpy()
        return scores


class RankT5(T5Ranker):
    """RankT5 with encoder and decoder; scores are logits of <extra_id_10> (arXiv 2210.10634, 4.2).

    Args:
      model: a folder, or "org/name@REVISION".
      max_length: tokens of "Query: … Document: …"; the passage is cut.
      dtype: float32 or bfloat16; in float16 T5 overflows.
      device: such as cuda:1; auto: a GPU where there is one.
      batch_tokens: the most tokens of a batch, padding included.
    """

    prompt = PairPrompt(("Query: {query} Document: {passage}",), eos=True)
    _words = (RANK_T5_TOKEN,)

    def __init__(
        self,
        model: str,
        *,
        max_length: int = 512,
        dtype: str = "float32",
        device: str = "auto",
        batch_tokens: int = 16_384,
    ):
        super().__init__(
            model,
            repr(self.prompt),
            max_length=max_length,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
        )

    def score_of_logits(self, logits: Any) -> Any:
        """Scores [B] of logits [B, 1]."""
        return logits[:, 0]


class MonoT5(T5Ranker):
    """monoT5, scored by the log-probability of true against false (arXiv 2003.06713, section 3).

    Args:
      model: a folder, or "org/name@REVISION".
      true_token: the token that says a passage is relevant; mT5 models were trained with yes.
      false_token: the token that says it is not; mT5 models were trained with no.
      max_length: tokens of "Query: … Document: … Relevant:"; the passage is cut, never the end.
      dtype: float32 or bfloat16; in float16 T5 overflows.
      device: such as cuda:1; auto: a GPU where there is one.
      batch_tokens: the most tokens of a batch, padding included.
    """

    prompt = PairPrompt(("Query: {query} Document: {passage}", "Relevant:"), eos=True)

    def __init__(
        self,
        model: str,
        *,
        true_token: str = "true",
        false_token: str = "false",
        max_length: int = 512,
        dtype: str = "float32",
        device: str = "auto",
        batch_tokens: int = 16_384,
    ):
        super().__init__(
            model,
            f"{self.prompt!r} {true_token!r} {false_token!r}",
            max_length=max_length,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
        )
        self._words = (true_token, false_token)

    def score_of_logits(self, logits: Any) -> Any:
        """Scores [B] of logits [B, 2]."""
        return logits.log_softmax(dim=-1)[:, 0]
