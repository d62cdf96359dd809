"""The keys of a config whose values are paths: they say where something is, and not what it is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PATH_KEYS = re.compile(
    r"(model|guide)\.path|data\.(root|records)|data\.sources\.[^.]+\.(root|records)|prep\.log"
    r"|prep\.(retrievers|teachers)\.[^.]+\.path|train\.average_with"
)


def is_path_key(key: str) -> bool:
    """Whether the value of a dotted key is a path (or several), which says where something is."""
    return _PATH_KEYS.fullmatch(key) is not None


def with_absolute_paths(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config whose paths to what is there, files or folders, are absolute."""
    plain = dict(config)
    for name, value in config.items():
        key = prefix + name
        if isinstance(value, Mapping):
            plain[name] = with_absolute_paths(value, f"{key}.")
        elif is_path_key(key) and isinstance(value, list | tuple):
            plain[name] = [_absolute(each) for each in value]
        elif is_path_key(key):
            plain[name] = _absolute(value)
    return plain


def _absolute(path: Any) -> Any:
    is_there = isinstance(path, str) and path and Path(path).exists()
    return str(Path(path).absolute()) if is_there else path
