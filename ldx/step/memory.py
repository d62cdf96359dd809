"""The memory of a device, and how large a micro-batch may be for it."""

import math
from typing import Any

import jax

from ldx.common.memory import memory_limit
from ldx.data.batching import default_microbatch_tokens
from ldx.parallel.processes import least
from ldx.step.activations import kept_bytes

MICROBATCH_SHARE = 0.4
"""The share of the memory that the state leaves for one micro-batch's backward pass."""
ACTIVATION_SHARE = {"cpu": 0.125}
"""The share for what is kept of the first pass; 0.25 on accelerators."""
TEMPORARY_FACTOR = 1.5
"""What a backward pass needs beyond the activations it is given, as a factor of those."""
STATE_FACTOR = 6
"""The size of parameters, their moments and the sums of gradients, in sizes of the parameters."""


def device_memory() -> int:
    """Bytes of one device's memory; on CPU its share of the machine's.

    Of several processes it is the least, so that all cut the work alike.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return least(int(stats["bytes_limit"]))
    return least(memory_limit() // jax.device_count())


def _room(params: Any) -> int:
    """Bytes of a device's memory that the state leaves."""
    num_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    return max(device_memory() - STATE_FACTOR * num_bytes, 0)


def auto_microbatch_tokens(embed: Any, params: Any, max_length: int) -> int:
    """Tokens of a micro-batch on each device: what keeps it busy, or less where memory is short.

    Args:
      embed: the student's, of `Embedder`.
      params: its parameters, for their shapes.
      max_length: tokens of the longest text.
    """
    enough = default_microbatch_tokens(jax.default_backend())
    per_token = TEMPORARY_FACTOR * kept_bytes(embed, params, (2, max_length)) / (2 * max_length)
    fitting = MICROBATCH_SHARE * _room(params) / per_token
    if fitting >= enough:
        return enough
    return max(max_length, 2 ** int(math.log2(max(fitting, 1))))


def auto_activation_bytes(params: Any) -> int:
    """Memory of each device for what the backward pass needs of the first pass."""
    share = ACTIVATION_SHARE.get(jax.default_backend(), 0.25)
    return int(share * _room(params))
