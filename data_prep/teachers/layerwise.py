"""bge-reranker-v2.5-gemma2-lightweight: scores from a middle layer, without the code it ships.

The model is Gemma 2 with a linear head of one output for every layer from `start_layer` on. Cut
after a layer, it is a plain Gemma2Model of transformers with fewer layers, whose final norm is
applied to that layer's output; so the code that the model ships is not needed. Two things differ
from that code:

- Its token compression (compress_ratio over 1: passage tokens averaged after some layers) is not
  done. Scores are those of compress_ratio 1: slower, and nothing is averaged away.
- Attention logits are capped as in Gemma 2's paper. The shipped code, with the versions of
  transformers that it supports, may choose an attention that leaves the cap out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.teachers.loading import TransformersTeacher, load_pretrained
from data_prep.teachers.prompts import PromptEncoder, choose_preset
from data_prep.teachers.token_teacher import INPUT_IDS, Encoded, pad
from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.models.weights import weight_files

MODEL_TYPE = "cost_wise_gemma"


class Layerwise(TransformersTeacher):
    """A layer-wise reranker; the score is one head's softcapped logit at the prompt's last token.

    Args:
      model: a folder, or "org/name@REVISION".
      layer: after how many layers the score is made.
      head: the head that makes the score. The public code (FlagEmbedding) uses head 0 wherever it
        stops at a single layer, so 0 gives the published scores; layer - start_layer is the head
        that training paired with the layer (where config.json has layer_sep 1).
      template: the prompt; see data_prep/teachers/prompts.py.
      instruction: what stands at {instruction}; None: the preset's.
      max_length: tokens of the prompt; the passage is cut. None: the preset's.
      dtype: float32, bfloat16 or float16.
      device: such as cuda:1; auto: a GPU where there is one.
      batch_tokens: the most tokens of a batch, padding included.
    """

    auto_class = "Gemma2Model"

    def __init__(
        self,
        model: str,
        *,
        layer: int = 28,
        head: int = 0,
        template: str | Sequence[str] = "bge_lightweight",
        instruction: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        device: str = "auto",
        batch_tokens: int = 16_384,
    ):
        self._preset = choose_preset(template, instruction=instruction, max_length=max_length)
        super().__init__(
            model,
            f"{layer} {head} {self._preset!r}",
            max_length=self._preset.max_length,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
        )
        self._layer, self._head = layer, head
        self._config = self._checked_config()

    def _checked_config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        config: dict[str, Any] = read_json(path)
        if config.get("model_type") != MODEL_TYPE or not config.get("layer_wise"):
            raise UserError(
                f"{path}: no {MODEL_TYPE!r} model with layer_wise true, the only layer-wise one "
                "that can be read without running code of the model"
            )
        start, end = config["start_layer"], config["num_hidden_layers"]
        layers = range(start, end + 1, config["layer_sep"])
        if self._layer not in layers:
            raise UserError(f"layer={self._layer}: {path} has heads from layer {start} to {end}")
        if not 0 <= self._head < len(layers):
            raise UserError(f"head={self._head}: {path} has heads 0 to {len(layers) - 1}")
        return config

    def load_model(self) -> Any:
        """Load the first layers, as a Gemma2Model, on the CPU."""
        from transformers import Gemma2Config

        ours = ("model_type", "auto_map", "architectures", "layer_types", "num_hidden_layers")
        rest = {k: v for k, v in self._config.items() if k not in ours}
        config = Gemma2Config(**rest, num_hidden_layers=self._layer)
        return load_pretrained(self.auto_class, self.folder, self._dtype, config)

    def prepare(self, model: Any) -> None:
        """Load the head."""
        preset = self._preset
        self._encoder = PromptEncoder(
            self.tokenizer, preset.prompt, self.max_length, preset.instruction
        )
        self._weight = self._load_head().float().to(self.device)
        self._cap = model.config.final_logit_softcapping

    def _load_head(self) -> Any:
        from safetensors import safe_open

        name = f"lm_head.{self._head}.linear_head.weight"
        for file in weight_files(self.folder):
            with safe_open(file, "pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118
                    return tensors.get_tensor(name)
        raise UserError(f"{self.folder}: its safetensors lack {name}")

    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> list[Encoded]:
        """Model input of pairs, each without padding."""
        return self._encoder(queries, passages)

    def forward(self, batch: Sequence[Encoded]) -> np.ndarray:
        """Scores [B] of a batch."""
        import torch

        # Attention only looks backwards, so padding on the right changes nothing before it.
        tensors = self.tensors(pad(batch, {INPUT_IDS: self.pad_id()}, "right"))
        last = torch.tensor([len(item[INPUT_IDS]) - 1 for item in batch], device=self.device)
        with torch.inference_mode():
            hidden = self._model(**tensors, use_cache=False).last_hidden_state
            rows = torch.arange(len(batch), device=self.device)
            logits = hidden[rows, last].float() @ self._weight[0]
            if self._cap is not None:
                logits = self._cap * torch.tanh(logits / self._cap)
            scores: np.ndarray = logits.cpu().numpy()
        return scores
