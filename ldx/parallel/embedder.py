"""Embeddings of micro-batches of tokens: one program a shape, rows split over the devices."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ldx.common.progress import progress_bar
from ldx.common.types import Params
from ldx.parallel.mesh import ROWS, put, put_local_rows, replicated, split_rows

EmbedFn = Callable[[Params, jax.Array, jax.Array], jax.Array]


class Embedder:
    """A student's `embed` as programs of a mesh.

    Args:
      embed: a pure function (params, token_ids int32 [B, T], mask bool [B, T]) -> embeddings
        [B, D].
      mesh: the devices; B is divisible by their number.
    """

    def __init__(self, embed: EmbedFn, mesh: Mesh):
        self.mesh = mesh
        self.embed = embed
        self._forward = self.on_every_device(embed, (PartitionSpec(), ROWS, ROWS))

    @property
    def num_devices(self) -> int:
        """The number of devices that share a micro-batch."""
        return self.mesh.size

    def on_every_device(
        self, function: Callable, in_specs: tuple, *, donated: tuple[int, ...] = ()
    ) -> Any:
        """A program that runs `function` on every device's own rows; nothing crosses devices.

        Args:
          function: what every device computes of its rows.
          in_specs: how the arguments are split over the devices.
          donated: the numbers of the arguments whose memory the result takes.
        """
        on_rows = jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=ROWS, check_vma=False
        )
        # The sharding is given and not inferred, so that it has one form whichever program an array
        # comes from, and a program has one cache entry.
        return jax.jit(on_rows, out_shardings=split_rows(self.mesh), donate_argnums=donated)

    def put_params(self, params: Params) -> Params:
        """Parameters as whole copies on every device."""
        return put(params, replicated(self.mesh))

    def put_tokens(
        self, token_ids: np.ndarray, mask: np.ndarray, num_rows: int | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """A micro-batch of tokens [B, T], rows split over the devices.

        Args:
          token_ids: all rows; or, where `num_rows` is given, those of this process's devices.
          mask: the mask of the same rows.
          num_rows: B, where the arrays hold only a part of the rows.
        """
        if num_rows is None:
            return put((token_ids, mask), split_rows(self.mesh))
        return tuple(put_local_rows(x, self.mesh, num_rows) for x in (token_ids, mask))  # type: ignore[return-value]

    def lower(self, params: Params, shape: tuple[int, int]) -> jax.stages.Lowered:
        """The program of a shape (rows, length), lowered but not yet compiled."""
        with jax.set_mesh(self.mesh):  # a part of the key by which a program is found again
            return self._forward.lower(params, *self.token_shapes(shape))

    def token_shapes(self, shape: tuple[int, int]) -> tuple[Any, Any]:
        """The shapes of what `put_tokens` gives for a micro-batch of this shape (rows, length)."""
        rows = split_rows(self.mesh)
        return (
            jax.ShapeDtypeStruct(shape, np.int32, sharding=rows),
            jax.ShapeDtypeStruct(shape, bool, sharding=rows),
        )

    def __call__(self, params: Params, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeddings [B, D] of a micro-batch, rows split over the devices."""
        with jax.set_mesh(self.mesh):
            return self._forward(params, token_ids, mask)


def compile_together(programs: Sequence[jax.stages.Lowered]) -> None:
    """Compile programs in threads, so that later calls find them compiled."""
    bar = progress_bar(total=len(programs), desc="compiling", unit=" programs", delay=2)
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(lambda program: program.compile(), programs):
            bar.update()
