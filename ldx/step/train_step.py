"""One optimisation step over a global batch: embed once, loss, back-propagate, update.

The batch's texts go through the model in micro-batches, forward only; the loss of the whole batch
gives gradients with respect to the embeddings; the same micro-batches go through again with those
gradients (gradient caching, Gao et al., arXiv 2101.06983). Memory is bounded by a micro-batch, the
result is that of the whole batch. What the backward pass needs of a micro-batch is kept from the
first pass while it fits in `activation_bytes`; that micro-batch is then not computed again.

Parameters and optimiser state may be split over devices (`ldx.parallel.mesh`): the step gathers the
parameters once, each device sums its own gradient over its micro-batches, and gradients cross
devices once, at the end. Only the last program, the update, donates the state: until it runs a step
can be abandoned and leaves the state as it was.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from ldx.common.types import Params
from ldx.data.batching import Shapes
from ldx.data.lists import BatchSize, Lists
from ldx.data.plan import BatchPlan, TokenBatch
from ldx.models.towers import PASSAGE_MAP
from ldx.parallel.embedder import Embedder, compile_together
from ldx.parallel.mesh import FSDP_AXIS, ROWS, put, replicated, split_rows, split_state
from ldx.step.activations import Activations, embed_and_keep, kept_bytes, pull_back
from ldx.step.objective import Objective
from ldx.step.result import StepResult
from ldx.step.state import TrainState, apply_gradient, init_state, sum_over_devices

NUM_UNDER_WAY = 2
"""Micro-batches given to the device before the first of them is done: it is never idle, and a stop
is prompt."""


class TrainStep:
    """The programs of a step for one model, objective, optimiser and mesh.

    Args:
      embedder: runs the student on the mesh.
      objective: the loss of a batch.
      optimizer: any optax transformation.
      buffer_rows: rows of the buffer that holds a batch's embeddings (`BatchPlanner.buffer_rows`).
      activation_bytes: memory of each device for what the backward pass needs; 0 keeps nothing.
    """

    def __init__(
        self,
        embedder: Embedder,
        objective: Objective,
        optimizer: optax.GradientTransformation,
        *,
        buffer_rows: int,
        activation_bytes: int = 0,
    ):
        self._embedder = embedder
        self._mesh = embedder.mesh
        self._objective = objective
        self._optimizer = optimizer
        self._buffer_rows = buffer_rows
        self._activation_bytes = activation_bytes
        self._bytes_of_shape: dict[tuple[int, int], int] = {}
        whole, on_all = PartitionSpec(), embedder.on_every_device
        rows, everywhere = split_rows(self._mesh), replicated(self._mesh)
        self._gather = jax.jit(lambda params: jax.reshard(params, whole), out_shardings=everywhere)
        self._place = on_all(_place, (ROWS, ROWS, whole), donated=(0,))
        self._embed_and_keep = on_all(self._embed_and_keep_local, (whole, ROWS, ROWS))
        backprop_specs = (whole, ROWS, ROWS, ROWS, ROWS, whole)
        self._backprop = on_all(self._backprop_local, backprop_specs, donated=(1,))
        kept_specs = (whole, ROWS, ROWS, ROWS, whole)
        self._backprop_kept = on_all(self._backprop_kept_local, kept_specs, donated=(1,))
        self._loss = jax.jit(self._loss_of_buffer, out_shardings=(rows, everywhere, everywhere))
        self._zeros = jax.jit(self._make_zeros, out_shardings=rows)
        self._update: Any = None  # made by `init`, which learns how the state is split

    def init(self, params: Params) -> TrainState:
        """The state before the first step (`init_state`), split over the devices.

        Comes before any step, also where the state is then replaced by a restored one.
        """

        def make(params: Params) -> TrainState:
            return init_state(params, self._optimizer)

        with jax.set_mesh(self._mesh):
            params = put(jax.tree.map(np.asarray, params), replicated(self._mesh))
            shardings = split_state(self._mesh, jax.eval_shape(make, params))
            if self._update is None:
                self._update = jax.jit(
                    self._apply_gradients,
                    donate_argnums=0,
                    out_shardings=(shardings, replicated(self._mesh)),
                )
            return jax.jit(make, out_shardings=shardings)(params)

    def compile(self, state: TrainState, shapes: Shapes, size: BatchSize) -> None:
        """Compile every program that a batch of these shapes and this size can need."""
        rows, whole = split_rows(self._mesh), replicated(self._mesh)
        with jax.set_mesh(self._mesh):
            params, passage_map = _split(self._gather_params(state))
            buffer, gradients = self._zeros(_split(state.params)[0])
            start = put(np.int32(0), whole)
            lists = put(_empty_lists(size), whole)
            _, of_map, losses = self._loss(buffer, passage_map, *lists)
            programs = [self._update.lower(state, gradients, of_map, losses)]
            for shape in shapes.all:
                tokens = self._embedder.token_shapes(shape)
                embeddings = jax.ShapeDtypeStruct(
                    (shape[0], buffer.shape[1]), buffer.dtype, sharding=rows
                )
                programs.append(self._place.lower(buffer, embeddings, start))
                if self._bytes(params, shape) <= self._activation_bytes:
                    forward = self._embed_and_keep.lower(params, *tokens)
                    activations = jax.tree.map(
                        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows),
                        forward.out_info[1],
                    )
                    backward = self._backprop_kept.lower(
                        params, gradients, buffer, activations, start
                    )
                    programs += [forward, backward]
                if not self._keeps_all(params, shapes, size):
                    programs += [
                        self._embedder.lower(params, shape),
                        self._backprop.lower(params, gradients, buffer, *tokens, start),
                    ]
        compile_together(programs)

    def _keeps_all(self, params: Params, shapes: Shapes, size: BatchSize) -> bool:
        """Whether the activations of any batch fit, so that nothing is ever computed twice."""
        if not self._activation_bytes:
            return False
        of_row = max(self._bytes(params, shape) / shape[0] for shape in shapes.all)
        return of_row * (size.num_texts + shapes.max_rows) <= self._activation_bytes

    def __call__(
        self, state: TrainState, plan: BatchPlan, check: Callable[[], None] = lambda: None
    ) -> tuple[TrainState, StepResult]:
        """Do one step.

        Args:
          state: the state before; its buffers are donated once the step is certain. Where a loss
            or the gradient is not finite, the state after has the same values.
          plan: the batch.
          check: called between micro-batches; what it raises abandons the step.

        Returns:
          The state after, and the numbers of the step (`StepResult.metrics`).
        """
        assert self._update is not None, "call init first"
        with jax.set_mesh(self._mesh):
            params, passage_map = _split(self._gather_params(state))
            buffer, gradients = self._zeros(_split(state.params)[0])
            buffer, activations = self._embed(params, plan, buffer, check)
            lists = plan.query_position, plan.passages, plan.lists
            lists = put(lists, replicated(self._mesh))
            buffer_gradient, of_map, losses = self._loss(buffer, passage_map, *lists)
            gradients = self._backpropagate(
                params, plan, gradients, buffer_gradient, activations, check
            )
            state, values = self._update(state, gradients, of_map, losses)
        return state, StepResult(values, plan, buffer)

    def _embed(
        self, params: Params, plan: BatchPlan, buffer: jax.Array, check: Callable[[], None]
    ) -> tuple[jax.Array, list[Activations | None]]:
        """All embeddings of the batch, and the activations of micro-batches as far as they fit."""
        of_batches: list[Activations | None] = []
        under_way: deque[jax.Array] = deque()
        room = self._activation_bytes
        for batch in plan.token_batches:
            check()
            tokens = self._put_tokens(batch)
            size = self._bytes(params, batch.shape)
            if size <= room:
                room -= size
                embeddings, activations = self._embed_and_keep(params, *tokens)
            else:
                embeddings, activations = self._embedder(params, *tokens), None
            of_batches.append(activations)
            buffer = self._place(buffer, embeddings, self._put_start(batch))
            _wait_for_room(under_way, embeddings)
        return buffer, of_batches

    def _backpropagate(
        self,
        params: Params,
        plan: BatchPlan,
        gradients: Params,
        buffer_gradient: jax.Array,
        of_batches: list[Activations | None],
        check: Callable[[], None],
    ) -> Params:
        """Every device's own gradient of the parameters, summed over its micro-batches."""
        under_way: deque[jax.Array] = deque()
        for batch in reversed(plan.token_batches):
            check()
            start, activations = self._put_start(batch), of_batches.pop()
            if activations is not None:
                gradients, done = self._backprop_kept(
                    params, gradients, buffer_gradient, activations, start
                )
            else:
                tokens = self._put_tokens(batch)
                gradients, done = self._backprop(params, gradients, buffer_gradient, *tokens, start)
            _wait_for_room(under_way, done)
        return gradients

    def _put_tokens(self, batch: TokenBatch) -> tuple[jax.Array, jax.Array]:
        return self._embedder.put_tokens(batch.token_ids, batch.mask, batch.num_rows)

    def _put_start(self, batch: TokenBatch) -> jax.Array:
        return put(np.int32(batch.start), replicated(self._mesh))

    def whole_params(self, state: TrainState) -> Params:
        """The parameters of a state, whole, on every device."""
        with jax.set_mesh(self._mesh):
            return self._gather_params(state)

    def _gather_params(self, state: TrainState) -> Params:
        """The parameters, whole, on every device; no copy where they are that already."""
        return self._gather(state.params) if self._mesh.shape[FSDP_AXIS] > 1 else state.params

    def _bytes(self, params: Params, shape: tuple[int, int]) -> int:
        """Memory on each device of what would be kept of a micro-batch."""
        if self._activation_bytes and shape not in self._bytes_of_shape:
            local = (shape[0] // self._mesh.size, shape[1])
            self._bytes_of_shape[shape] = kept_bytes(self._embedder.embed, params, local)
        return self._bytes_of_shape.get(shape, 1)

    def _make_zeros(self, params: Params) -> tuple[jax.Array, Params]:
        """An empty buffer [rows, D] and, for every device, gradients of zero [devices, ...]."""
        tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32), jax.ShapeDtypeStruct((1, 3), bool)
        shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
        embedding = jax.eval_shape(self._embedder.embed, shapes, *tokens)
        rows = split_rows(self._mesh)
        shape = (self._buffer_rows, embedding.shape[1])
        buffer = jnp.zeros(shape, embedding.dtype, out_sharding=rows)
        n = self._mesh.size
        return buffer, jax.tree.map(
            lambda p: jnp.zeros((n, *p.shape), p.dtype, out_sharding=rows), shapes
        )

    def _loss_of_buffer(
        self,
        buffer: jax.Array,
        passage_map: Params | None,
        queries: jax.Array,
        passages: jax.Array,
        lists: Lists,
    ) -> tuple[jax.Array, Params | None, dict[str, jax.Array]]:
        """Gradients with respect to the buffer and the passage map, and the losses.

        Stored passages are constants.
        """
        is_stored = passages.ndim == 2
        of_map = jax.tree.map(lambda _: PartitionSpec(), passage_map)

        @jax.sharding.auto_axes(out_sharding=(ROWS, of_map, PartitionSpec()))
        def compute(buffer, passage_map, queries, passages, lists):
            def loss(buffer, passage_map):
                # Every device compares its share of the queries with all passages.
                mine = jax.lax.with_sharding_constraint(buffer[queries], ROWS)
                others = passages.astype(buffer.dtype) if is_stored else buffer[passages]
                if passage_map is not None:
                    others = self._objective.map_passages(others, passage_map["kernel"])
                return self._objective(mine, others, lists)

            gradients_of = jax.value_and_grad(loss, (0, 1), has_aux=True)
            (_, losses), (of_buffer, of_map) = gradients_of(buffer, passage_map)
            return of_buffer, of_map, losses

        return compute(buffer, passage_map, queries, passages, lists)

    def _embed_and_keep_local(
        self, params: Params, token_ids: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, Activations]:
        return embed_and_keep(self._embedder.embed, params, token_ids, mask)

    def _backprop_local(
        self,
        params: Params,
        gradients: Params,
        buffer_gradient: jax.Array,
        token_ids: jax.Array,
        mask: jax.Array,
        start: jax.Array,
    ) -> tuple[Params, jax.Array]:
        """Add one micro-batch's gradient to the device's own sum; and a number to wait for."""
        _, vjp = jax.vjp(lambda p: self._embedder.embed(p, token_ids, mask), params)
        rows = len(token_ids)
        (gradient,) = vjp(jax.lax.dynamic_slice_in_dim(buffer_gradient, start, rows))
        return _add(gradients, gradient), start[None]

    def _backprop_kept_local(
        self,
        params: Params,
        gradients: Params,
        buffer_gradient: jax.Array,
        activations: Activations,
        start: jax.Array,
    ) -> tuple[Params, jax.Array]:
        """Add one micro-batch's gradient, from the activations that the first pass kept."""
        part = jax.lax.dynamic_slice_in_dim(buffer_gradient, start, activations.num_rows)
        return _add(gradients, pull_back(params, activations, part)), start[None]

    def _apply_gradients(
        self,
        state: TrainState,
        gradients: Params,
        of_map: Params | None,
        losses: dict[str, jax.Array],
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        gradient = sum_over_devices(self._mesh, gradients)
        if of_map is not None:  # the loss of the whole batch gave it, not the micro-batches
            specs = jax.tree.map(lambda s: s.spec, split_state(self._mesh, of_map))
            gradient = {**gradient, PASSAGE_MAP: jax.tree.map(jax.reshard, of_map, specs)}
        return apply_gradient(state, gradient, losses, self._optimizer)


def _split(params: Params) -> tuple[Params, Params | None]:
    """The parameters that embed texts, and the passage map; None where there is none."""
    own = {key: value for key, value in params.items() if key != PASSAGE_MAP}
    return own, params.get(PASSAGE_MAP)


def _wait_for_room(under_way: deque[jax.Array], newest: jax.Array) -> None:
    """Count a micro-batch in, and wait while more than `NUM_UNDER_WAY` are under way."""
    under_way.append(newest)
    if len(under_way) > NUM_UNDER_WAY:
        jax.block_until_ready(under_way.popleft())


def _place(buffer: jax.Array, embeddings: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(buffer, embeddings, start, axis=0)


def _add(total: Params, gradient: Params) -> Params:
    """A device's sum [1, ...] plus a gradient."""
    return jax.tree.map(lambda t, g: t + g[None], total, gradient)


def _empty_lists(size: BatchSize) -> tuple[np.ndarray, np.ndarray, Lists]:
    """Positions and lists of a batch without lists."""
    queries = np.zeros(size.num_queries, np.int32)
    if size.stored_size:
        stored = np.zeros((size.num_passages, size.stored_size), np.float32)
        return queries, stored, Lists.empty(size)
    return queries, np.zeros(size.num_passages, np.int32), Lists.empty(size)
