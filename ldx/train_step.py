"""One optimisation step over a global batch: embed once, loss, back-propagate, update.

The batch's texts go through the model in micro-batches, forward only; the loss of the whole batch
gives gradients with respect to the embeddings; the same micro-batches go through again with those
gradients (gradient caching, Gao et al., arXiv 2101.06983). Memory is bounded by a micro-batch, the
result is that of the whole batch. Only the last program, the update, donates: until it runs a step
can be abandoned and leaves the state as it was.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from ldx.data.lists import Lists
from ldx.data.plan import BatchPlan
from ldx.embedder import SPLIT, Embedder, Params
from ldx.errors import UserError, listing
from ldx.objective import Objective
from ldx.sharding import replicated, split_rows

Metrics = dict[str, float]


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


class TrainStep:
    """The programs of a step for one model, objective, optimiser and mesh.

    Args:
      embedder: runs the student on the mesh.
      objective: the loss of a batch.
      optimizer: any optax transformation.
      buffer_rows: rows of the buffer that holds a batch's embeddings (`BatchPlanner.buffer_rows`).
    """

    def __init__(
        self,
        embedder: Embedder,
        objective: Objective,
        optimizer: optax.GradientTransformation,
        *,
        buffer_rows: int,
    ):
        self._embedder = embedder
        self._mesh = embedder.mesh
        self._objective = objective
        self._optimizer = optimizer
        self._buffer_rows = buffer_rows
        self._place = self._on_every_device(_place, (SPLIT, SPLIT, PartitionSpec()))
        backprop_specs = (PartitionSpec(), SPLIT, SPLIT, SPLIT, SPLIT, PartitionSpec())
        self._backprop = self._on_every_device(self._backprop_local, backprop_specs)
        self._loss = jax.jit(self._loss_of_buffer)
        self._sum_gradients = jax.jit(_sum_gradients)
        self._update = jax.jit(self._apply_gradients, donate_argnums=0)
        self._zeros: tuple[jax.Array, Params] | None = None

    def __call__(
        self, state: TrainState, plan: BatchPlan, check: Callable[[], None] = lambda: None
    ) -> tuple[TrainState, Metrics]:
        """Do one step.

        Args:
          state: the state before; its buffers are donated once the step is certain.
          plan: the batch.
          check: called between micro-batches; what it raises abandons the step.

        Returns:
          The state after, and the losses before the update with the gradient's norm.

        Raises:
          UserError: a loss or the gradient is not finite; the state stays as it was.
        """
        tokens = [self._embedder.put_tokens(b.token_ids, b.mask) for b in plan.token_batches]
        starts = [jnp.asarray(b.start) for b in plan.token_batches]
        buffer, gradients = self._start_values(state.params)
        for (token_ids, mask), start in zip(tokens, starts, strict=True):
            check()
            embeddings = self._embedder(state.params, token_ids, mask)
            jax.block_until_ready(buffer)  # at most two micro-batches under way: a stop is prompt
            buffer = self._place(buffer, embeddings, start)
        lists = self._put_lists(plan)
        with jax.set_mesh(self._mesh):
            buffer_gradient, losses = self._loss(buffer, *lists)
        for (token_ids, mask), start in zip(tokens, starts, strict=True):
            check()
            jax.block_until_ready(buffer_gradient)
            summed = gradients
            gradients = self._backprop(
                state.params, summed, buffer_gradient, token_ids, mask, start
            )
            jax.block_until_ready(summed)
        gradient, norm = self._sum_gradients(gradients)
        metrics = {name: float(value) for name, value in losses.items()}
        metrics["gradient_norm"] = float(norm)
        if not all(np.isfinite(value) for value in metrics.values()):
            raise UserError(_non_finite(metrics, plan, np.asarray(buffer)))
        return self._update(state, gradient), metrics

    def _on_every_device(self, function: Callable, in_specs: tuple) -> Callable:
        return jax.jit(
            jax.shard_map(
                function, mesh=self._mesh, in_specs=in_specs, out_specs=SPLIT, check_vma=False
            )
        )

    def _start_values(self, params: Params) -> tuple[jax.Array, Params]:
        """An empty buffer [rows, D] and, for every device, gradients of zero [devices, ...]."""
        if self._zeros is None:
            split, n = split_rows(self._mesh), self._embedder.num_devices
            tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32), jax.ShapeDtypeStruct((1, 3), bool)
            embedding = jax.eval_shape(self._embedder.embed, params, *tokens)
            shape = (self._buffer_rows, embedding.shape[1])
            buffer = jax.device_put(np.zeros(shape, embedding.dtype), split)
            gradients = jax.tree.map(
                lambda p: jax.device_put(np.zeros((n, *p.shape), p.dtype), split), params
            )
            self._zeros = buffer, gradients
        return self._zeros

    def _put_lists(self, plan: BatchPlan) -> tuple[jax.Array, jax.Array, Lists]:
        arrays = (plan.query_position, plan.passage_position, plan.lists)
        return jax.device_put(arrays, replicated(self._mesh))

    def _loss_of_buffer(
        self, buffer: jax.Array, queries: jax.Array, passages: jax.Array, lists: Lists
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Gradient with respect to the buffer, and the losses."""

        @jax.sharding.auto_axes(out_sharding=(PartitionSpec(SPLIT[0]), PartitionSpec()))
        def compute(buffer, queries, passages, lists):
            def loss(buffer):
                return self._objective(buffer[queries], buffer[passages], lists)

            (_, losses), gradient = jax.value_and_grad(loss, has_aux=True)(buffer)
            return gradient, losses

        return compute(buffer, queries, passages, lists)

    def _backprop_local(
        self,
        params: Params,
        gradients: Params,
        buffer_gradient: jax.Array,
        token_ids: jax.Array,
        mask: jax.Array,
        start: jax.Array,
    ) -> Params:
        """Add one micro-batch's gradient to the device's own sum."""
        _, vjp = jax.vjp(lambda p: self._embedder.embed(p, token_ids, mask), params)
        rows = len(token_ids)
        (gradient,) = vjp(jax.lax.dynamic_slice_in_dim(buffer_gradient, start, rows))
        return jax.tree.map(lambda total, g: total + g[None], gradients, gradient)

    def _apply_gradients(self, state: TrainState, gradient: Params) -> TrainState:
        updates, opt_state = self._optimizer.update(gradient, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)


def _place(buffer: jax.Array, embeddings: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(buffer, embeddings, start, axis=0)


def _sum_gradients(gradients: Params) -> tuple[Params, jax.Array]:
    """The devices' gradients summed, the one time gradients cross devices, and the global norm."""
    total = jax.tree.map(lambda g: jnp.sum(g, axis=0), gradients)
    return total, optax.tree.norm(total)


def _non_finite(metrics: Metrics, plan: BatchPlan, embeddings: np.ndarray) -> str:
    """Which lists a loss that is not finite comes from."""
    bad_row = ~np.isfinite(embeddings).all(axis=1)
    lists, num_lists = plan.lists, len(plan.list_ids)
    bad_query = bad_row[plan.query_position[:num_lists]]
    bad_entry = bad_row[plan.passage_position[lists.list_index]] | ~np.isfinite(
        lists.teacher_scores
    )
    bad = bad_query | (bad_entry & lists.where).any(axis=1)[:num_lists]
    named = [name for name, is_bad in zip(plan.list_ids, bad, strict=True) if is_bad]
    values = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
    head = f"the loss is not finite ({values}); training stopped before this step's update.\n"
    if named:
        what = "Lists with embeddings or scores that are not finite:"
    else:
        named, what = plan.list_ids, "All embeddings and scores are finite; the step's lists:"
    advice = "Try a lower --config.optim.learning_rate or higher temperatures, or drop these lists."
    return f"{head}{what}\n{listing(named)}\n{advice}"
