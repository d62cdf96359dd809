"""The two towers of a model: what embeds queries, and what embeds passages.

Most models have one set of parameters for both. A run that trains the tower of queries alone leaves
the passages to the base model, whose embeddings in a user's index stay as they are, or are changed
by one matrix product, the passage map.

Shapes: N passages, D dimensions.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save

from ldx.common.errors import UserError
from ldx.common.files import fingerprint, write_json
from ldx.common.types import Params
from ldx.models.pooling import EPSILON
from ldx.models.st_folder import DeclaredTowers
from ldx.models.student import Student, load_params, load_tower
from ldx.models.weights import WEIGHTS_NAME

PASSAGE_MAP = "passage_map"
"""The key of the passage map beside the student's own among trained parameters."""
MAP_NAME = "linear.weight"
ROWS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True, eq=False)
class Towers:
    """The parameters of both towers.

    Attributes:
      query: the parameters that embed queries.
      passage: the parameters that embed passages; the same object where there is one model.
      passage_map: float32 [D, D], by which the passages' embeddings are multiplied: the identity
        and what training added to it; None: there is none.
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
        """Embeddings [N, D] of passages after the map, of norm 1 if `unit_norm`."""
        if self.passage_map is None:
            return embeddings
        output = np.empty(embeddings.shape, np.float32)
        for start in range(0, len(embeddings), ROWS_AT_ONCE):
            rows = embeddings[start : start + ROWS_AT_ONCE].astype(np.float32) @ self.passage_map
            if unit_norm:
                rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), EPSILON)
            output[start : start + len(rows)] = rows
        return output


def with_passage_map(params: Params) -> Params:
    """A student's parameters and a passage map of zeros, as training with such a map begins."""
    size = params["embeddings"]["word"]["embedding"].shape[1]
    return {**params, PASSAGE_MAP: {"kernel": jnp.zeros((size, size), jnp.float32)}}


def split_passage_map(params: Params) -> tuple[Params, np.ndarray | None]:
    """A student's parameters alone, and the map of `Towers`; None where there is none.

    The map that is trained is a residual one, V of p + p V.
    """
    if PASSAGE_MAP not in params:
        return params, None
    own = {key: value for key, value in params.items() if key != PASSAGE_MAP}
    residual = np.asarray(params[PASSAGE_MAP]["kernel"], np.float32)
    return own, residual + np.eye(len(residual), dtype=np.float32)


def load_towers(declared: DeclaredTowers, **overrides: Any) -> tuple[Student, Towers]:
    """Read an export of two towers.

    Args:
      declared: what it says about them.
      **overrides: arguments of `load_tower` that differ from what the export declares.

    Returns:
      The student, whose own parameters are those of the queries, and both towers.

    Raises:
      UserError: a part is missing or damaged.
    """
    student = load_tower(declared.query, **declared.settings | overrides)
    passage_map = None
    if declared.passage_map:
        path = declared.passage_map / WEIGHTS_NAME
        if not path.is_file():
            raise UserError(f"{path}: no such file; the export is not whole, so export it again")
        passage_map = np.ascontiguousarray(load_file(path)[MAP_NAME].T)
    return student, Towers(student.params, load_params(student, declared.passage), passage_map)


def save_passage_map(passage_map: np.ndarray, folder: Path) -> None:
    """Write a passage map as the module Dense of sentence-transformers."""
    size = len(passage_map)
    settings = {"in_features": size, "out_features": size, "bias": False}
    write_json(
        folder / "config.json",
        settings | {"activation_function": "torch.nn.modules.linear.Identity"},
    )
    tensors = {MAP_NAME: np.ascontiguousarray(passage_map.T)}
    (folder / WEIGHTS_NAME).write_bytes(save(tensors, metadata={"format": "pt"}))


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
