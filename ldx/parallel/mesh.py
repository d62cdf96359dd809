"""The device mesh, where arrays live on it, and how they come back to the host.

The mesh has two axes. Texts of a micro-batch are split over both (`ROWS`); parameters and optimiser
state are split over `fsdp` alone (`split_state`), so each of its devices keeps a part of them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldx.common.errors import UserError

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"
ROWS = PartitionSpec((DATA_AXIS, FSDP_AXIS))
"""The partition that splits the first axis over every device of the mesh."""


def make_mesh(num_devices: int | None = None, *, fsdp: int = 1) -> Mesh:
    """A mesh over the first `num_devices` devices.

    Args:
      num_devices: how many devices; None means all devices of all processes.
      fsdp: how many devices share one copy of parameters and optimiser state; it divides the
        number of devices, and the others hold further copies.

    Raises:
      UserError: `fsdp` does not divide the number of devices.
    """
    devices = jax.devices()[:num_devices]
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(
            f"config.train.fsdp={fsdp}: wanted a divisor of the number of devices, {len(devices)}"
        )
    return _mesh(devices, fsdp)


def make_local_mesh() -> Mesh:
    """A mesh over this process's devices, for work in which the other processes have no part."""
    return _mesh(jax.local_devices(), 1)


def _mesh(devices: Sequence[jax.Device], fsdp: int) -> Mesh:
    return jax.make_mesh(
        (len(devices) // fsdp, fsdp),
        (DATA_AXIS, FSDP_AXIS),
        axis_types=(AxisType.Explicit,) * 2,
        devices=devices,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh) -> NamedSharding:
    """The sharding that splits rows (the first axis) over all devices."""
    return NamedSharding(mesh, ROWS)


def fsdp_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """How an array of the state is split over `fsdp` devices: by its longest axis that divides."""
    axes = [i for i, size in enumerate(shape) if size and size % fsdp == 0]
    if fsdp == 1 or not axes:
        return PartitionSpec()
    axis = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*(FSDP_AXIS if i == axis else None for i in range(axis + 1)))


def split_state(mesh: Mesh, state: Any) -> Any:
    """The sharding of every array (or shape) of a tree of parameters or optimiser state."""
    fsdp = mesh.shape[FSDP_AXIS]
    return jax.tree.map(lambda x: NamedSharding(mesh, fsdp_spec(x.shape, fsdp)), state)


def local_blocks(mesh: Mesh) -> list[int]:
    """The places of this process's devices in the mesh; it holds the blocks of rows there."""
    here = jax.process_index()
    return [i for i, device in enumerate(mesh.devices.flat) if device.process_index == here]


def put(value: Any, sharding: Any) -> Any:
    """A tree of arrays that every process holds whole, on the devices.

    Args:
      value: host arrays.
      sharding: one sharding, or a tree of them like `value`.
    """
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, value)
    if all(s.is_fully_addressable for s in jax.tree.leaves(sharding)):
        return jax.device_put(value, sharding)
    # Without a callback JAX would compare the processes' arrays, over the network, every time.
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(np.shape(x), s, np.asarray(x).__getitem__),
        value,
        sharding,
    )


def put_local_rows(array: np.ndarray, mesh: Mesh, num_rows: int) -> jax.Array:
    """An array with rows split over all devices; this process gives those of `local_blocks`."""
    shape = (num_rows, *array.shape[1:])
    return jax.make_array_from_process_local_data(split_rows(mesh), array, shape)


def to_host(array: jax.Array) -> np.ndarray:
    """The whole array in this process's memory, from wherever its parts are."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
