"""BERT (Devlin et al., arXiv 1810.04805) as an encoder in Flax NNX, without pooler or dropout.

Shapes: B texts, T tokens (padded), D hidden size; attention works on [B, T, heads, D / heads].
Parameters are float32. With `dtype` bfloat16 matrix products are computed in bfloat16; LayerNorm
and softmax stay in float32.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx

from ldx.common.errors import UserError, listing
from ldx.common.files import read_json
from ldx.models.attention import attend
from ldx.models.weights import KeyTable, Rule

# Keys of config.json that would change the computation, and the values that are supported; a key
# that is absent has the first of them.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "num_token_types",
}

KEY_TABLE = KeyTable(
    rules=(
        Rule("embeddings.word_embeddings.weight", "embeddings.word.embedding"),
        Rule("embeddings.position_embeddings.weight", "embeddings.position.embedding"),
        Rule("embeddings.token_type_embeddings.weight", "embeddings.token_type.embedding"),
        Rule("embeddings.LayerNorm.weight", "embeddings.norm.scale"),
        Rule("embeddings.LayerNorm.bias", "embeddings.norm.bias"),
        *(
            rule
            for hf, path in (
                ("attention.self.query", "attention.query"),
                ("attention.self.key", "attention.key"),
                ("attention.self.value", "attention.value"),
                ("attention.output.dense", "attention.output"),
                ("intermediate.dense", "feed_forward_in"),
                ("output.dense", "feed_forward_out"),
            )
            for rule in (
                Rule(f"encoder.layer.{{i}}.{hf}.weight", f"layers.{{i}}.{path}.kernel", True),
                Rule(f"encoder.layer.{{i}}.{hf}.bias", f"layers.{{i}}.{path}.bias"),
            )
        ),
        *(
            rule
            for hf, path in (
                ("attention.output.LayerNorm", "attention_norm"),
                ("output.LayerNorm", "feed_forward_norm"),
            )
            for rule in (
                Rule(f"encoder.layer.{{i}}.{hf}.weight", f"layers.{{i}}.{path}.scale"),
                Rule(f"encoder.layer.{{i}}.{hf}.bias", f"layers.{{i}}.{path}.bias"),
            )
        ),
    ),
    prefix="bert.",
    renames={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    ignored=("pooler.", "cls.", "embeddings.position_ids"),
)
"""HF tensor names and NNX paths, used for reading and for writing."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT encoder."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_length: int  # positions that have an embedding
    num_token_types: int
    norm_epsilon: float

    @classmethod
    def from_hf(cls, path: str | Path) -> "BertConfig":
        """Read HF's config.json.

        Raises:
          UserError: the model is of another type or has settings that are not supported, which
            are all named.
        """
        hf = read_json(path)
        if not isinstance(hf, dict):
            raise UserError(f"{path}: not a JSON object; it should be HF's config of a model")
        if hf.get("model_type") != "bert":
            raise UserError(
                f"{path}: model_type is {hf.get('model_type')!r}; supported is 'bert' alone"
            )
        problems = [
            f"{key} is {hf[key]!r}; supported: {', '.join(map(repr, values))}"
            for key, values in _SUPPORTED.items()
            if hf.get(key, values[0]) not in values
        ]
        sizes: dict[str, Any] = {name: hf.get(key) for key, name in _SIZES.items()}
        for key, name in _SIZES.items():
            if not isinstance(sizes[name], int) or sizes[name] < 1:
                problems.append(f"{key} is {sizes[name]!r}; it has to be a positive integer")
        if not problems and sizes["hidden_size"] % sizes["num_heads"]:
            problems.append(
                f"hidden_size {sizes['hidden_size']} is no multiple of "
                f"num_attention_heads {sizes['num_heads']}"
            )
        if problems:
            raise UserError(f"{path}: this BERT is not supported:\n{listing(problems)}")
        rates = {k: hf[k] for k in hf if k.endswith(("dropout", "dropout_prob")) and hf[k]}
        if rates:
            settings = ", ".join(f"{key} {rate}" for key, rate in rates.items())
            logging.log_first_n(logging.DEBUG, "dropout is set to 0 (%s: %s)", 1, path, settings)
        return cls(**sizes, norm_epsilon=hf.get("layer_norm_eps", 1e-12))


class Embeddings(nnx.Module):
    """Word, position and token type (always 0) embeddings, summed and normalised."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs):
        size = config.hidden_size
        self.word = nnx.Embed(config.vocab_size, size, rngs=rngs)
        self.position = nnx.Embed(config.max_length, size, rngs=rngs)
        self.token_type = nnx.Embed(config.num_token_types, size, rngs=rngs)
        self.norm = _layer_norm(config, rngs)
        self.dtype = dtype

    def __call__(self, token_ids: jax.Array) -> jax.Array:
        """Embeddings [B, T, D] of token ids [B, T]."""
        words = self.word.embedding[token_ids]
        positions = self.position.embedding[: token_ids.shape[1]]
        constant = positions + self.token_type.embedding[:1]
        return _cast(self.norm(words + constant[None]), self.dtype)


class SelfAttention(nnx.Module):
    """Multi-head attention of every token to the tokens of its text that are not padding."""

    def __init__(self, config: BertConfig, attention: str, dtype: Any, rngs: nnx.Rngs):
        size = config.hidden_size
        self.query = nnx.Linear(size, size, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(size, size, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(size, size, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(size, size, dtype=dtype, rngs=rngs)
        self.num_heads = config.num_heads
        self.implementation = attention

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        """Hidden states [B, T, D] after attention; mask [B, T]."""
        heads = (*hidden.shape[:2], self.num_heads, -1)
        mixed = attend(
            self.query(hidden).reshape(heads),
            self.key(hidden).reshape(heads),
            self.value(hidden).reshape(heads),
            mask,
            self.implementation,
        )
        return self.output(mixed.reshape(hidden.shape))


class Layer(nnx.Module):
    """Attention and feed-forward network, each added to its input and then normalised."""

    def __init__(self, config: BertConfig, attention: str, dtype: Any, rngs: nnx.Rngs):
        size, inner = config.hidden_size, config.intermediate_size
        self.attention = SelfAttention(config, attention, dtype, rngs)
        self.attention_norm = _layer_norm(config, rngs)
        self.feed_forward_in = nnx.Linear(size, inner, dtype=dtype, rngs=rngs)
        self.feed_forward_out = nnx.Linear(inner, size, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = _layer_norm(config, rngs)
        self.dtype = dtype

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        """Hidden states [B, T, D] after the layer; mask [B, T]."""
        hidden = _cast(self.attention_norm(hidden + self.attention(hidden, mask)), self.dtype)
        inner = _gelu(self.feed_forward_in(hidden))
        return _cast(self.feed_forward_norm(hidden + self.feed_forward_out(inner)), self.dtype)


class Bert(nnx.Module):
    """A BERT encoder, from token ids to the hidden states of the last layer.

    Args:
      config: the sizes.
      attention: the implementation, as `ldx.models.attention.choose_attention` gives it.
      dtype: the type in which matrix products are computed; None means the parameters' type.
      remat: keep only each layer's input for the backward pass and compute the layer again.
      rngs: the source of random initial parameters.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        attention: str = "xla",
        dtype: Any = None,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.embeddings = Embeddings(config, dtype, rngs)
        self.layers = nnx.List(
            [Layer(config, attention, dtype, rngs) for _ in range(config.num_layers)]
        )
        self.remat = remat

    def __call__(self, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Hidden states [B, T, D] of token_ids int32 [B, T]; mask bool [B, T], False is padding."""
        hidden = self.embeddings(token_ids)
        # A loop, not a scan: as fast, and no copy of the layers' parameters stacked.
        for layer in self.layers:
            hidden = jax.checkpoint(layer)(hidden, mask) if self.remat else layer(hidden, mask)
        return hidden


@jax.checkpoint
def _gelu(x: jax.Array) -> jax.Array:
    """The exact GELU; only its input is kept for the backward pass."""
    return jax.nn.gelu(x, approximate=False)


def _layer_norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits.
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.norm_epsilon, use_fast_variance=False, rngs=rngs
    )


def _cast(x: jax.Array, dtype: Any) -> jax.Array:
    return x if dtype is None else jnp.asarray(x, dtype)
