"""Types that have one name everywhere in ldx."""

from typing import Any

Params = Any
"""Parameters of a model: a nested dict of arrays, as `flax.nnx.to_pure_dict` gives it."""
