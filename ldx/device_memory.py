"""How much a device holds, and what that means for the size of a micro-batch."""

import math
import os
from typing import Any

import jax

from ldx.activations import kept_bytes
from ldx.data.batching import default_microbatch_tokens

MICROBATCH_SHARE = 0.4
"""Of a device's memory, for one micro-batch's backward pass."""
ACTIVATION_SHARE = {"cpu": 0.125}
"""Of a device's memory, for what is kept of the first pass; 0.25 on accelerators."""
TEMPORARY_FACTOR = 1.5
"""What a backward pass needs beyond the activations it is given, as a factor of those."""


def device_memory() -> int:
    """Bytes of one device's memory; on CPU, its share of the machine's."""
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return whole // jax.local_device_count()


def auto_microbatch_tokens(embed: Any, params: Any, max_length: int) -> int:
    """Tokens of a micro-batch on each device: what keeps it busy, or less where memory is short.

    Args:
      embed: the student's, of `Embedder`.
      params: its parameters, for their shapes.
      max_length: tokens of the longest text.
    """
    wanted = default_microbatch_tokens(jax.default_backend())
    per_token = TEMPORARY_FACTOR * kept_bytes(embed, params, (2, max_length)) / (2 * max_length)
    fitting = MICROBATCH_SHARE * device_memory() / per_token
    if fitting >= wanted:
        return wanted
    return max(max_length, 2 ** int(math.log2(fitting)))


def auto_activation_bytes() -> int:
    """Memory of each device for what the backward pass needs of the first pass."""
    share = ACTIVATION_SHARE.get(jax.default_backend(), 0.25)
    return int(share * device_memory())
