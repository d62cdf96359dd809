"""What a backward pass needs of a micro-batch, as arrays that one program gives and another takes.

Inside `jax.shard_map`, every kept array gets an axis of devices in front, so that each device finds
its own again. Parameters are not kept: they are given again.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ldx.common.types import Params
from ldx.parallel.embedder import EmbedFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Activations:
    """The arrays that the derivative of an embedding program closes over, and how to call it."""

    arrays: list[jax.Array]  # each [devices, ...]
    treedef: Any = dataclasses.field(metadata={"static": True})  # of the derivative
    param_of_leaf: tuple[int | None, ...] = dataclasses.field(metadata={"static": True})
    num_rows: int = dataclasses.field(metadata={"static": True})  # of a device


def embed_and_keep(
    embed: EmbedFn, params: Params, token_ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Activations]:
    """Embeddings [B, D] of one device's rows, and what `pull_back` needs."""
    embeddings, vjp = jax.vjp(lambda p: embed(p, token_ids, mask), params)
    leaves, treedef = jax.tree.flatten(vjp)
    number_of = {id(p): number for number, p in enumerate(jax.tree.leaves(params))}
    param_of_leaf = tuple(number_of.get(id(leaf)) for leaf in leaves)
    arrays = [x[None] for x, p in zip(leaves, param_of_leaf, strict=True) if p is None]
    return embeddings, Activations(arrays, treedef, param_of_leaf, len(token_ids))


def pull_back(params: Params, activations: Activations, gradient: jax.Array) -> Params:
    """The gradient of the parameters from the gradient [B, D] of one device's embeddings."""
    flat, arrays = jax.tree.leaves(params), iter(activations.arrays)
    leaves = [next(arrays)[0] if p is None else flat[p] for p in activations.param_of_leaf]
    (result,) = jax.tree.unflatten(activations.treedef, leaves)(gradient)
    return result


def kept_bytes(embed: EmbedFn, params: Params, shape: tuple[int, int]) -> int:
    """Bytes of the activations of a micro-batch (rows, length) on one device."""
    local = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    tokens = jax.ShapeDtypeStruct(shape, np.int32), jax.ShapeDtypeStruct(shape, bool)
    _, activations = jax.eval_shape(lambda p, *x: embed_and_keep(embed, p, *x), local, *tokens)
    return sum(x.size * x.dtype.itemsize for x in activations.arrays)
