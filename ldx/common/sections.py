"""Sections of a config: the check of their keys, and the objects that are made of them."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ldx.common.errors import UserError

T = TypeVar("T")


def build(make: Callable[..., T], section: Mapping[str, Any], name: str) -> T:
    """Return `make(**section)`, after a check that the section has the keys that `make` takes.

    Raises:
      UserError: a key is unknown or missing; the message names it.
    """
    parameters = inspect.signature(make).parameters
    check_keys(section, list(parameters), name)
    required = {k for k, p in parameters.items() if p.default is p.empty}
    missing = sorted(required - set(section))
    if missing:
        raise UserError(f"config.{name}.{missing[0]} is missing; configs/base.py explains it")
    return make(**section)


def check_keys(section: Mapping[str, Any], known: list[str], name: str) -> None:
    """Refuse keys that a section does not have; the message names the nearest ones that it has."""
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or known
            where = f"config.{name}.{key}" if name else f"config.{key}"
            raise UserError(f"{where}: there is no such key; did you mean {' or '.join(near)}?")


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config as one dict, whose keys are the nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten_config(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
