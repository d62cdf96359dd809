"""The model that learns: an encoder, its pooling, its prompts and its tokenizer.

`params` is a nested dict of arrays (`flax.nnx.to_pure_dict`), as optax, Orbax and jax.tree take it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx

from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.common.types import Params
from ldx.models.attention import ATTENTIONS, choose_attention
from ldx.models.bert import KEY_TABLE, Bert, BertConfig
from ldx.models.locate import resolve_model_path
from ldx.models.pooling import POOLINGS, Pooling, normalize, pool
from ldx.models.st_folder import (
    PASSAGE_TOWER,
    Declared,
    declared_pooling,
    is_query_tower,
    read_st_folder,
)
from ldx.models.tokenizer import Tokenizer
from ldx.models.weights import flatten, load_weights, unflatten, weight_files

Kind = Literal["query", "passage"]
JAX_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """How texts become embeddings around the encoder; lengths count special tokens too."""

    pooling: str
    normalize: bool
    query_prompt: str
    passage_prompt: str
    query_max_length: int
    passage_max_length: int

    @property
    def max_length(self) -> int:
        """The longer of both maximum lengths."""
        return max(self.query_max_length, self.passage_max_length)

    def prompt_and_length(self, kind: Kind) -> tuple[str, int]:
        """The prompt and the maximum length of queries, or of passages."""
        if kind == "query":
            return self.query_prompt, self.query_max_length
        return self.passage_prompt, self.passage_max_length


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A model read from a folder; `params` are those it came with."""

    folder: Path
    config: StudentConfig
    tokenizer: Tokenizer
    sizes: BertConfig = dataclasses.field(repr=False)
    graphdef: Any = dataclasses.field(repr=False)
    params: Params = dataclasses.field(repr=False)
    fingerprint: str  # of weights, sizes, tokenizer, config and dtype
    architecture: str  # of what decides the embedding of token ids, but for the parameters

    @property
    def embedding_size(self) -> int:
        """D, the size of an embedding."""
        return self.params["embeddings"]["word"]["embedding"].shape[1]

    def with_prompts(self, query_prompt: str | None, passage_prompt: str | None) -> "Student":
        """The student with other prompts, such as those of a source; None keeps its own."""
        own: dict[str, Any] = {"query_prompt": query_prompt, "passage_prompt": passage_prompt}
        own = {name: prompt for name, prompt in own.items() if prompt is not None}
        if not own:
            return self
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **own))

    def embed(self, params: Params, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeddings [B, D], at least float32, of token_ids int32 [B, T] and mask bool [B, T]."""
        encoder = nnx.merge(self.graphdef, params)
        hidden = encoder(token_ids, mask)
        embeddings = pool(hidden, mask, cast(Pooling, self.config.pooling))
        return normalize(embeddings) if self.config.normalize else embeddings


def load_student(
    path: str | Path,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    query_max_length: int | None = None,
    passage_max_length: int | None = None,
    attention: str = "auto",
    dtype: str = "float32",
    remat: bool = False,
) -> Student:
    """Read a sentence-transformers or plain HF folder; None means as the folder declares.

    Args:
      path: a folder, a package or a model of the hub (`resolve_model_path`).
      pooling: mean or cls.
      normalize: whether embeddings have norm 1.
      query_prompt: the text before every query.
      passage_prompt: the text before every passage.
      query_max_length: the most tokens of a query, special tokens and prompt included.
      passage_max_length: the most tokens of a passage, special tokens and prompt included.
      attention: auto, xla or cudnn (for a GPU and bfloat16).
      dtype: the type of matrix products, float32 or bfloat16; parameters are float32.
      remat: compute every layer again in the backward pass, to save memory.

    Raises:
      UserError: the model is missing, damaged or not supported, or the query tower of two.
    """
    folder = resolve_model_path(path)
    _refuse_query_tower(folder)
    return load_tower(
        folder,
        pooling=pooling,
        normalize=normalize,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        query_max_length=query_max_length,
        passage_max_length=passage_max_length,
        attention=attention,
        dtype=dtype,
        remat=remat,
    )


def load_tower(
    folder: Path,
    *,
    attention: str = "auto",
    dtype: str = "float32",
    remat: bool = False,
    **given: Any,
) -> Student:
    """Read a folder, which may be one of two towers; arguments and errors as of `load_student`.

    Args:
      folder: the folder.
      attention: auto, xla or cudnn.
      dtype: float32 or bfloat16.
      remat: compute every layer again in the backward pass.
      **given: pooling, normalize, prompts and lengths; what is None or left out is as the folder
        declares.
    """
    _check_choices(given.get("pooling"), attention, dtype)
    declared, bert_config, tokenizer, config = _read_declared(folder, given)
    implementation = choose_attention(attention, JAX_DTYPES[dtype])
    graphdef, params = _load_bert(
        declared,
        bert_config,
        attention=implementation,
        dtype=JAX_DTYPES[dtype],
        remat=remat,
    )
    student_fingerprint = fingerprint(
        *weight_files(declared.transformer),
        repr(bert_config),
        tokenizer.fingerprint,
        repr(config),
        dtype,
    )
    special = repr((tokenizer.prefix, tokenizer.suffix))
    around = repr((config.pooling, config.normalize))
    architecture = fingerprint(repr(bert_config), special, around, dtype, implementation)
    logging.debug("student %s: %s", folder, config)
    return Student(
        folder,
        config,
        tokenizer,
        bert_config,
        graphdef,
        params,
        student_fingerprint,
        architecture,
    )


def read_tokenizer(path: str | Path, **given: Any) -> tuple[Tokenizer, StudentConfig]:
    """What puts texts to a model, without its weights.

    Args:
      path: a model, as of `load_student`.
      **given: pooling, normalize, prompts and lengths; what is None or left out is as the folder
        declares.

    Raises:
      UserError: as `load_student`.
    """
    _, _, tokenizer, config = _read_declared(resolve_model_path(path), given)
    return tokenizer, config


def _read_declared(
    folder: Path, given: Mapping[str, Any]
) -> tuple[Declared, BertConfig, Tokenizer, StudentConfig]:
    declared = read_st_folder(folder)
    hf_config = declared.transformer / "config.json"
    bert_config = BertConfig.from_hf(hf_config)
    tokenizer = Tokenizer(declared.transformer, lower_case=declared.lower_case)
    if tokenizer.vocab_size > bert_config.vocab_size:
        raise UserError(
            f"{declared.transformer}: tokenizer.json has {tokenizer.vocab_size} tokens, the model "
            f"has {bert_config.vocab_size}; they are not of one model"
        )
    config = _student_config(declared, bert_config.max_length, given)
    _check_lengths(config, bert_config, tokenizer, hf_config)
    return declared, bert_config, tokenizer, config


def load_params(student: Student, folder: Path) -> Params:
    """Parameters for a student from the weights of another folder.

    Raises:
      UserError: they are missing, damaged or of another model.
    """
    shapes = {path: leaf.shape for path, leaf in flatten(student.params).items()}
    flat = load_weights(folder, KEY_TABLE, student.sizes.num_layers, shapes)
    return jax.tree.map(jnp.asarray, unflatten(flat))


def _refuse_query_tower(folder: Path) -> None:
    if is_query_tower(folder):
        raise UserError(
            f"{folder} is the tower of queries alone, which no passage is embedded by; "
            f"{folder.resolve().parent} has both, for ldx.load, ldx.search and ldx.evaluate; to "
            f"train, begin with the base model, or with {PASSAGE_TOWER} beside this folder"
        )


def _student_config(
    declared: Declared, most_tokens: int, given: Mapping[str, Any]
) -> StudentConfig:
    """What is given, and what the folder declares where that is None."""
    max_length = min(declared.max_length or most_tokens, most_tokens)
    values = {
        "pooling": declared_pooling(declared) if given.get("pooling") is None else None,
        "normalize": declared.normalize,
        "query_prompt": declared.query_prompt,
        "passage_prompt": declared.passage_prompt,
        "query_max_length": min(declared.query_max_length or max_length, max_length),
        "passage_max_length": min(declared.passage_max_length or max_length, max_length),
    }
    return StudentConfig(**values | {k: v for k, v in given.items() if v is not None})


def _load_bert(declared: Declared, config: BertConfig, **settings: Any) -> tuple[Any, Params]:
    def make() -> Bert:
        return Bert(config, rngs=nnx.Rngs(0), **settings)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    shapes = {path: leaf.shape for path, leaf in flatten(nnx.to_pure_dict(state)).items()}
    flat = load_weights(declared.transformer, KEY_TABLE, config.num_layers, shapes)
    return graphdef, jax.tree.map(jnp.asarray, unflatten(flat))


def _check_choices(pooling: str | None, attention: str, dtype: str) -> None:
    for key, value, choices in (
        ("pooling", pooling, (*POOLINGS, None)),
        ("attention", attention, ATTENTIONS),
        ("dtype", dtype, tuple(JAX_DTYPES)),
    ):
        if value not in choices:
            raise UserError(
                f"model.{key} is {value!r}; it must be one of {', '.join(map(str, choices))}"
            )


def _check_lengths(
    config: StudentConfig, bert_config: BertConfig, tokenizer: Tokenizer, path: Path
) -> None:
    least = len(tokenizer.prefix) + len(tokenizer.suffix) + 1
    for key in ("query_max_length", "passage_max_length"):
        length = getattr(config, key)
        if not least <= length <= bert_config.max_length:
            raise UserError(
                f"model.{key} is {length}; it must be {least} to {bert_config.max_length} tokens "
                f"for this model (max_position_embeddings in {path})"
            )
