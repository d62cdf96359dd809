"""What changes in training, and its update by a step's gradient."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from ldx.common.types import Params
from ldx.parallel.mesh import DATA_AXIS, FSDP_AXIS, ROWS, split_state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training."""

    step: jax.Array
    params: Params
    opt_state: Any


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the parameters are copied, for updates donate them."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def apply_gradient(
    state: TrainState,
    gradient: Params,
    losses: dict[str, jax.Array],
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after a step.

    Args:
      state: the state before.
      gradient: of the whole batch, split like the parameters.
      losses: of the batch.
      optimizer: makes the update.

    Returns:
      The state after, and the losses with `gradient_norm`. Where one of them is not finite, only
      the state's step differs.
    """
    values = losses | {"gradient_norm": optax.tree.norm(gradient)}
    finite = jnp.all(jnp.isfinite(jnp.stack(list(values.values()))))
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    after = optax.apply_updates(state.params, updates), opt_state
    before = state.params, state.opt_state
    params, opt_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, before)
    return TrainState(state.step + 1, params, opt_state), values


def sum_over_devices(mesh: Mesh, gradients: Params) -> Params:
    """The devices' gradients [devices, ...] summed, split like the parameters.

    The one time that gradients cross devices.
    """
    shapes = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape[1:], g.dtype), gradients)
    specs = jax.tree.map(lambda s: s.spec, split_state(mesh, shapes))

    def add_up(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
        if FSDP_AXIS not in spec:
            return jax.lax.psum(gradient[0], (DATA_AXIS, FSDP_AXIS))
        axis = list(spec).index(FSDP_AXIS)
        part = jax.lax.psum_scatter(gradient[0], FSDP_AXIS, scatter_dimension=axis, tiled=True)
        return jax.lax.psum(part, DATA_AXIS)

    return jax.shard_map(
        lambda g: jax.tree.map(add_up, g, specs),
        mesh=mesh,
        in_specs=ROWS,
        out_specs=specs,
        check_vma=False,
    )(gradients)
