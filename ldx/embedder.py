"""Token micro-batches to embeddings: one program a shape, rows split over the devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ldx.sharding import DATA_AXIS, replicated, split_rows

Params = Any
EmbedFn = Callable[[Params, jax.Array, jax.Array], jax.Array]

SPLIT = PartitionSpec(DATA_AXIS)


class Embedder:
    """Runs a student's `embed` on a mesh.

    Args:
      embed: (params, token_ids int32 [B, T], mask bool [B, T]) -> embeddings [B, D]; pure.
      mesh: the devices; B is divisible by their number.
    """

    def __init__(self, embed: EmbedFn, mesh: Mesh):
        self.mesh = mesh
        self.embed = embed
        self._forward = jax.jit(
            jax.shard_map(
                embed,
                mesh=mesh,
                in_specs=(PartitionSpec(), SPLIT, SPLIT),
                out_specs=SPLIT,
                check_vma=False,
            )
        )

    @property
    def num_devices(self) -> int:
        """The devices that share a micro-batch."""
        return self.mesh.size

    def put_params(self, params: Params) -> Params:
        """Parameters on every device."""
        return jax.device_put(params, replicated(self.mesh))

    def put_tokens(self, token_ids: np.ndarray, mask: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """A micro-batch of tokens [B, T], rows split over the devices."""
        return jax.device_put((token_ids, mask), split_rows(self.mesh))

    def __call__(self, params: Params, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeddings [B, D] of a micro-batch, rows split over the devices."""
        return self._forward(params, token_ids, mask)
