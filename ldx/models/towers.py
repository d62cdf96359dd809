"""The two towers of a model: what embeds queries, and what embeds passages.

Most models have one set of parameters for both. A run that trains the tower of queries alone leaves
the passages to the base model, whose embeddings in a user's index stay as they are, or are changed
by one matrix product, the passage map.

Shapes: N passages, D dimensions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldx.common.files import fingerprint
from ldx.common.types import Params
from ldx.models.pooling import EPSILON
from ldx.models.student import Student

PASSAGE_MAP = "passage_map"
"""The key of the passage map beside the student's own among trained parameters."""
ROWS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True, eq=False)
class Towers:
    """The parameters of both towers.

    Attributes:
      query: the parameters that embed queries.
      passage: the parameters that embed passages; the same object where there is one model.
      passage_map: float32 [D, D], the residual map of the passages' embeddings; None: there is
        none.
    """

    query: Params
    passage: Params
    passage_map: np.ndarray | None = None

    @classmethod
    def of(cls, params: Params) -> "Towers":
        """One model for queries and passages."""
        return cls(params, params)

    @property
    def are_one(self) -> bool:
        """Whether one model embeds queries and passages."""
        return self.query is self.passage and self.passage_map is None

    def map_passages(self, embeddings: np.ndarray, *, unit_norm: bool) -> np.ndarray:
        """The embeddings [N, D] after the passage map: p + p V, then of norm 1 if `unit_norm`."""
        if self.passage_map is None:
            return embeddings
        output = np.empty(embeddings.shape, np.float32)
        for start in range(0, len(embeddings), ROWS_AT_ONCE):
            rows = embeddings[start : start + ROWS_AT_ONCE].astype(np.float32)
            rows += rows @ self.passage_map
            if unit_norm:
                rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), EPSILON)
            output[start : start + len(rows)] = rows
        return output


def with_passage_map(params: Params) -> Params:
    """A student's parameters and a passage map of zeros, as training with such a map begins."""
    size = params["embeddings"]["word"]["embedding"].shape[1]
    return {**params, PASSAGE_MAP: {"kernel": jnp.zeros((size, size), jnp.float32)}}


def split_passage_map(params: Params) -> tuple[Params, np.ndarray | None]:
    """A student's parameters without the passage map, and the map; None where there is none."""
    if PASSAGE_MAP not in params:
        return params, None
    own = {key: value for key, value in params.items() if key != PASSAGE_MAP}
    return own, np.asarray(params[PASSAGE_MAP]["kernel"], np.float32)


def passage_fingerprint(student: Student, towers: Towers, template: str) -> str:
    """A digest of all that makes an index: two models with the same one can share an index.

    It knows the passages' parameters, map, prompt and maximum length, and the template that joins
    title and text; but not the type of matrix products, which changes embeddings by rounding alone.
    """
    config = student.config
    settings = (config.pooling, config.normalize, config.passage_prompt, config.passage_max_length)
    parts: list[Any] = [
        repr(student.sizes),
        student.tokenizer.fingerprint,
        repr(settings),
        template,
    ]
    parts += [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(towers.passage)]
    if towers.passage_map is not None:
        parts += [PASSAGE_MAP, towers.passage_map.tobytes()]
    return fingerprint(*parts)
