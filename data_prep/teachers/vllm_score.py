"""Classifiers and yes/no language models scored by vLLM's pooling engine, written for vLLM 0.32.

The engine gets the same token ids as the transformers teachers, so template and truncation are the
same by construction. The activation is switched off by the model's config: a sigmoid in float32 is
1.0 from a logit of 17 on, and the logit would be lost. (The switch of a request, `use_activation`,
also switched off the tanh inside BERT's head, in versions of vLLM that are still around:
vllm-project/vllm#57664.)
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.llm.base import NEUTRAL_ENGINE_ARGS
from data_prep.llm.vllm_engine import ENVIRONMENT
from data_prep.teachers.cross_encoder import PairInput, check_labels, score_of_logits
from data_prep.teachers.loading import (
    check_count,
    check_dtype,
    load_tokenizer,
    model_folder,
    single_token,
    teacher_fingerprint,
)
from data_prep.teachers.prompts import Preset, PromptEncoder, choose_preset
from data_prep.teachers.token_teacher import INPUT_IDS, Encoded, TokenTeacher
from ldx.common.errors import UserError, listing
from ldx.common.files import read_json

SET_BY_TEACHER = (
    "model", "runner", "convert", "dtype", "max_model_len", "hf_overrides", "load_format",
    "trust_remote_code", "tokenizer", "revision", "skip_tokenizer_init", "pooler_config",
)  # fmt: skip
CLASSIFIER_SUFFIX = "ForSequenceClassification"
CAUSAL_LM_SUFFIX = "ForCausalLM"
"""Endings of the names of architectures that can be scored."""

NO_ACTIVATION = {
    "problem_type": "regression",
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
}
"""Overrides of a config that make vLLM leave a classifier's logits as they are."""


class VllmTeacher(TokenTeacher):
    """A model that vLLM serves as a classifier.

    Sequence classifiers score as `CrossEncoder` does. Language models with a yes/no template score
    as `YesNo` does: they are turned into classifiers of one label, whose weights are those of yes
    (less those of no) in the output layer.

    Args:
      model: a folder, or "org/name@REVISION".
      label_index: as for `CrossEncoder`.
      template: as for `CrossEncoder`; a language model needs one, as for `YesNo`.
      instruction: as for `YesNo`.
      yes: as for `YesNo`; classifiers take neither this nor the next two.
      no: as for `YesNo`.
      form: as for `YesNo`.
      max_length: tokens of a pair; None: 512, or the preset's.
      dtype: float32, bfloat16 or float16.
      engine_args: more arguments of vllm.LLM, such as {"tensor_parallel_size": 4}.

    Raises:
      UserError: vLLM cannot score with this model or these settings.
    """

    def __init__(
        self,
        model: str,
        *,
        label_index: int | None = None,
        template: str | Sequence[str] | None = None,
        instruction: str | None = None,
        yes: str | None = None,
        no: str | None = None,
        form: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        engine_args: Mapping[str, Any] | None = None,
    ):
        # The engine forms its own batches.
        super().__init__(batch_tokens=None)
        check_dtype(dtype)
        self._engine_args = dict(engine_args or {})
        if refused := sorted(set(self._engine_args) & set(SET_BY_TEACHER)):
            raise UserError(f"engine_args: {refused[0]} is set by the teacher's other keys")
        self.folder = model_folder(model)
        config = read_json(self.folder / "config.json")
        self._architecture = _architecture(config, self.folder)
        self._words = {"yes": yes, "no": no, "form": form}
        self._preset: Preset | None = None
        if self._architecture.endswith(CAUSAL_LM_SUFFIX):
            self._preset = self._language_model(config, template, instruction, max_length)
            self.max_length = self._preset.max_length
        else:
            self._refuse_words()
            self.max_length = 512 if max_length is None else max_length
            self._pair_input = PairInput(template, instruction, self.max_length)
        check_count("max_length", self.max_length)
        self._label_index, self._dtype = label_index, dtype
        form_of_pairs = self._preset or self._pair_input
        args = sorted((k, v) for k, v in self._engine_args.items() if k not in NEUTRAL_ENGINE_ARGS)
        self.fingerprint = teacher_fingerprint(
            self.folder, "VllmTeacher", f"{label_index} {form_of_pairs!r} {args}", dtype
        )
        self._llm: Any = None

    def _language_model(
        self,
        config: Mapping[str, Any],
        template: str | Sequence[str] | None,
        instruction: str | None,
        max_length: int | None,
    ) -> Preset:
        if template is None:
            raise UserError(
                f"{self.folder}: a language model; set template, such as qwen3_reranker"
            )
        if config.get("final_logit_softcapping"):
            raise UserError(
                f"{self.folder}: caps its logits (final_logit_softcapping), as vLLM's classifiers "
                "do not; use kind yes_no"
            )
        return choose_preset(
            template, instruction=instruction, max_length=max_length, **self._words
        )

    def _refuse_words(self) -> None:
        for key, value in self._words.items():
            if value is not None:
                raise UserError(f"{key}={value!r}: {self.folder} is a classifier and says no words")

    def load(self) -> None:
        """Start the engine, unless it is running.

        Raises:
          UserError: the engine cannot be started.
        """
        if self._llm is not None:
            return
        tokenizer = load_tokenizer(self.folder)
        overrides = dict(NO_ACTIVATION)
        if self._preset is None:
            self._encoder = self._pair_input.encoder(tokenizer)
        else:
            preset = self._preset
            self._encoder = PromptEncoder(
                tokenizer, preset.prompt, self.max_length, preset.instruction
            )
            overrides |= self._as_classifier(tokenizer, preset)
        llm = self._start(overrides)
        num_labels = llm.llm_engine.model_config.hf_config.num_labels
        check_labels(num_labels, self._label_index, self.folder)
        self._llm = llm

    def _start(self, overrides: dict[str, Any]) -> Any:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"kind vllm: vLLM cannot be imported ({error}); pip install '.[vllm]', best in "
                "an environment of its own"
            ) from None
        try:
            return LLM(
                model=str(self.folder),
                runner="pooling",
                load_format="safetensors",
                dtype=self._dtype,
                max_model_len=self.max_length,
                hf_overrides=overrides,
                trust_remote_code=False,
                **self._engine_args,
            )
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise UserError(
                f"vLLM cannot start with {self.folder} and engine_args={self._engine_args}:\n"
                f"{listing(str(error).splitlines())}"
            ) from error

    def close(self) -> None:
        """Release the engine; the next `score` starts another."""
        self._llm = None

    def _as_classifier(self, tokenizer: Any, preset: Preset) -> dict[str, Any]:
        """Overrides that make vLLM turn a language model into a classifier of one label."""
        words = preset.words[::-1]  # the engine wants no before yes
        ids = [single_token(tokenizer, word) for word in words]
        architecture = self._architecture.removesuffix(CAUSAL_LM_SUFFIX) + CLASSIFIER_SUFFIX
        return {
            "architectures": [architecture],
            "classifier_from_token": tokenizer.convert_ids_to_tokens(ids),
            "method": "from_2_way_softmax" if len(words) == 2 else "no_post_processing",
            "is_original_qwen3_reranker": architecture.startswith("Qwen3") and len(words) == 2,
        }

    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> list[Encoded]:
        """Model input of pairs, each without padding."""
        encoded: list[Encoded] = self._encoder(queries, passages)
        return encoded

    def forward(self, batch: Sequence[Encoded]) -> np.ndarray:
        """Scores [B] of a batch."""
        from vllm import PoolingParams

        outputs = self._llm.encode(
            [{"prompt_token_ids": item[INPUT_IDS].tolist()} for item in batch],
            pooling_params=[PoolingParams(extra_kwargs=_token_types(item)) for item in batch],
            pooling_task="classify",
            use_tqdm=False,
        )
        assert len(outputs) == len(batch), "vLLM answers every prompt, in order"
        logits = np.stack([output.outputs.data.float().numpy() for output in outputs])
        return score_of_logits(logits, self._label_index)


def transformers_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The section of the transformers teacher that scores as a section of kind vllm does."""
    section = {k: v for k, v in settings.items() if k != "engine_args" and v is not None}
    config = read_json(model_folder(section["model"]) / "config.json")
    architecture = _architecture(config, section["model"])
    is_language_model = architecture.endswith(CAUSAL_LM_SUFFIX)
    return section | {"kind": "yes_no" if is_language_model else "cross_encoder"}


def _architecture(config: Mapping[str, Any], where: Any) -> str:
    names = config.get("architectures") or [""]
    if not names[0].endswith((CLASSIFIER_SUFFIX, CAUSAL_LM_SUFFIX)):
        raise UserError(
            f"{where}: config.json names the architecture {names[0]!r}; vLLM scores those that end "
            f"in {CLASSIFIER_SUFFIX} or {CAUSAL_LM_SUFFIX}. Use another kind, such as rank_t5"
        )
    return str(names[0])


def _token_types(item: Encoded) -> dict[str, Any] | None:
    """Segments as vLLM takes them, by the place where the second begins."""
    types = item.get("token_type_ids")
    if types is None or not types.any():
        return None
    return {"compressed_token_type_ids": int(types.argmax())}
