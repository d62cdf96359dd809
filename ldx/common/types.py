"""Types that have one name everywhere in ldx."""

from enum import StrEnum
from typing import Any

Params = Any
"""Parameters of a model: a nested dict of arrays, as `flax.nnx.to_pure_dict` gives it."""


class IndexKind(StrEnum):
    """How embeddings are searched: exactly, by ScaNN, or by what suits their number."""

    AUTO = "auto"
    EXACT = "exact"
    SCANN = "scann"
