"""Cross-encoders: sequence classifiers that read query and passage together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.teachers.loading import TransformersTeacher, float32_linear
from data_prep.teachers.prompts import PromptEncoder, choose_preset
from data_prep.teachers.token_teacher import INPUT_IDS, Encoded, pad
from ldx.common.errors import UserError


class CrossEncoder(TransformersTeacher):
    """Any model of AutoModelForSequenceClassification.

    With one label the score is its logit; with two it is logit[1] - logit[0], the logit of the
    softmax's second probability; with more it is the logit of `label_index`.

    Args:
      model: a folder, or "org/name@REVISION".
      label_index: the label that says relevant, for a model with three labels or more.
      template: None joins query and passage as the tokenizer joins two texts. LLM rerankers that
        were converted to classifiers take a preset of data_prep/teachers/prompts.py or the parts
        of a prompt.
      instruction: what stands at {instruction} of the template; None: the preset's.
      max_length: tokens of a pair, special tokens included; the passage is cut. A pair whose query
        leaves no room for a passage cannot be scored.
      dtype: float32, bfloat16 or float16.
      device: such as cuda:1; auto: a GPU where there is one.
      batch_tokens: the most tokens of a batch, padding included.
    """

    auto_class = "AutoModelForSequenceClassification"

    def __init__(
        self,
        model: str,
        *,
        label_index: int | None = None,
        template: str | Sequence[str] | None = None,
        instruction: str | None = None,
        max_length: int = 512,
        dtype: str = "float32",
        device: str = "auto",
        batch_tokens: int = 16_384,
    ):
        self._pair_input = PairInput(template, instruction, max_length)
        super().__init__(
            model,
            f"{label_index} {self._pair_input}",
            max_length=max_length,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
        )
        self._label_index = label_index

    def prepare(self, model: Any) -> None:
        """Check the labels, and set the padding token in the config, where models look for it."""
        check_labels(model.config.num_labels, self._label_index, self.folder)
        _use_float32_head(model)
        text_config = model.config.get_text_config()
        if text_config.pad_token_id is None:
            text_config.pad_token_id = self.pad_id()
        self.pad_token_id = text_config.pad_token_id
        self._encoder = self._pair_input.encoder(self.tokenizer)

    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> list[Encoded]:
        """Model input of pairs, each without padding."""
        encoded: list[Encoded] = self._encoder(queries, passages)
        return encoded

    def forward(self, batch: Sequence[Encoded]) -> np.ndarray:
        """Scores [B] of a batch."""
        import torch

        tensors = self.tensors(pad(batch, {INPUT_IDS: self.pad_token_id}, "right"))
        with torch.inference_mode():
            logits = self._model(**tensors).logits.float().cpu().numpy()
        return score_of_logits(logits, self._label_index)


class PairInput:
    """The form in which pairs become the input of a classifier: two texts, or one prompt."""

    def __init__(
        self, template: str | Sequence[str] | None, instruction: str | None, max_length: int
    ):
        self._preset = None
        if template is not None:
            self._preset = choose_preset(template, instruction=instruction)
        elif instruction is not None:
            raise UserError(f"instruction={instruction!r}: there is no template to put it in")
        self._max_length = max_length

    def __repr__(self) -> str:
        prompt = self._preset and (self._preset.prompt, self._preset.instruction)
        return f"{prompt} {self._max_length}"

    def encoder(self, tokenizer: Any) -> Any:
        """A function that encodes queries and passages."""
        if self._preset is None:
            return lambda queries, passages: encode_pairs(
                tokenizer, queries, passages, self._max_length
            )
        preset = self._preset
        return PromptEncoder(tokenizer, preset.prompt, self._max_length, preset.instruction)


def encode_pairs(
    tokenizer: Any, queries: Sequence[str], passages: Sequence[str], max_length: int
) -> list[Encoded]:
    """Encode pairs as the tokenizer joins two texts; the passage is cut."""
    encoding = tokenizer(
        list(queries),
        list(passages),
        truncation="only_second",
        max_length=max_length,
        return_attention_mask=False,
    )
    return [
        {name: np.array(rows[i], np.int32) for name, rows in encoding.items()}
        for i in range(len(queries))
    ]


def score_of_logits(logits: np.ndarray, label_index: int | None) -> np.ndarray:
    """Scores [B] of logits [B, num_labels]; see `CrossEncoder`."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if logits.shape[1] == 2:
        return logits[:, 1] - logits[:, 0]
    assert label_index is not None, "checked when the model was loaded"
    return logits[:, label_index]


def check_labels(num_labels: int, label_index: int | None, folder: Path) -> None:
    """Check that label_index is there exactly where it is needed, and in range.

    Raises:
      UserError: label_index is missing, out of range, or of no use.
    """
    if num_labels <= 2:
        if label_index is not None:
            raise UserError(
                f"label_index={label_index}: {folder} has {num_labels} label(s); the score "
                "is their logit, or the difference of the two; leave label_index out"
            )
    elif label_index is None:
        raise UserError(
            f"{folder} has {num_labels} labels; set label_index to the one that says relevant "
            "(config.json names them under id2label)"
        )
    elif not 0 <= label_index < num_labels:
        raise UserError(f"label_index={label_index}: {folder} has labels 0 to {num_labels - 1}")


def _use_float32_head(model: Any) -> None:
    import torch

    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
    ]
    if len(heads) == 1:  # otherwise the head is not known, and logits are as exact as dtype
        parent, _, name = heads[0].rpartition(".")
        head = float32_linear(model.get_submodule(heads[0]))
        setattr(model.get_submodule(parent), name, head)
