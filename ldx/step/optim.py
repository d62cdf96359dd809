"""The optimiser, its schedule, and what "auto" means for small corpora."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldx.common.types import Params
from ldx.models.towers import PASSAGE_MAP

REFERENCE_BATCH_SIZE = 4096
REFERENCE_LEARNING_RATE = 2e-4


def auto_batch_size(num_lists: int) -> int:
    """min(4096, lists / 8 rounded up to 32): at least eight steps an epoch on a small corpus."""
    return min(REFERENCE_BATCH_SIZE, 32 * math.ceil(max(num_lists, 1) / 8 / 32))


def auto_learning_rate(batch_size: int) -> float:
    """CADET's 2e-4 at 4096 lists, scaled by the square root of the batch size.

    The square root is Adam's scaling rule (Malladi et al., arXiv 2205.10287, definition 3).
    """
    return REFERENCE_LEARNING_RATE * math.sqrt(batch_size / REFERENCE_BATCH_SIZE)


def auto_warmup_steps(steps_per_epoch: int, num_steps: int) -> int:
    """Steps of warm-up: CADET's max(10, half an epoch), but at most a fifth of a short run."""
    return min(max(10, steps_per_epoch // 2), max(1, num_steps // 5))


def warmup_linear(
    learning_rate: float, warmup_steps: int, num_steps: int, final_factor: float
) -> Callable[..., jnp.ndarray]:
    """A schedule from 0 to `learning_rate` in `warmup_steps`, then down in a line to a floor.

    CADET's schedule: the factor after warm-up w is max(final_factor, 1 - (t - w) / (T - w)). Of a
    number it is computed on the host.
    """

    def schedule(step):
        numpy = jnp if isinstance(step, jax.Array) else np
        warmup = step / max(warmup_steps, 1)
        decay = 1 - (step - warmup_steps) / max(num_steps - warmup_steps, 1)
        factor = numpy.where(step < warmup_steps, warmup, numpy.maximum(final_factor, decay))
        return learning_rate * factor

    return schedule


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The section `config.optim`; "auto" is already replaced by numbers."""

    learning_rate: float
    warmup_steps: int
    schedule: str = "linear"
    final_factor: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0  # None: no clipping
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    passage_map_learning_rate: float = 1e-4


def make_schedule(
    config: OptimConfig, num_steps: int, learning_rate: float | None = None
) -> Callable[..., jnp.ndarray]:
    """The learning rate as a function of the step; None means `config.learning_rate`."""
    rate = config.learning_rate if learning_rate is None else learning_rate
    final_factor = 1.0 if config.schedule == "constant" else config.final_factor
    return warmup_linear(rate, config.warmup_steps, num_steps, final_factor)


def make_optimizer(config: OptimConfig, num_steps: int) -> optax.GradientTransformation:
    """AdamW with decoupled decay on all parameters, after clipping to the global norm."""
    return _adamw(config, make_schedule(config, num_steps), config.weight_decay)


def with_passage_map(
    optimizer: optax.GradientTransformation, config: OptimConfig, num_steps: int
) -> optax.GradientTransformation:
    """An optimiser of a student that also updates a passage map, by AdamW without decay.

    The map has a learning rate and a clipping of its own.
    """
    schedule = make_schedule(config, num_steps, config.passage_map_learning_rate)

    def labels(params: Params) -> Params:
        return {key: PASSAGE_MAP if key == PASSAGE_MAP else "student" for key in params}

    return optax.partition(
        {"student": optimizer, PASSAGE_MAP: _adamw(config, schedule, 0.0)}, labels
    )


def _adamw(
    config: OptimConfig, schedule: Callable[..., jnp.ndarray], weight_decay: float
) -> optax.GradientTransformation:
    is_clipped = config.clip_norm is not None
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if is_clipped else optax.identity(),
        optax.adamw(
            schedule, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=weight_decay
        ),
    )
