"""Training records: the contract between data_prep and the trainer, on disk (docs/records.md)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldx.records.manifest import Manifest
    from ldx.records.schema import ListRecord, Passage
    from ldx.records.sets import records_fingerprint, write_lists, write_passages

__all__ = [
    "ListRecord",
    "Manifest",
    "Passage",
    "records_fingerprint",
    "write_lists",
    "write_passages",
]

_MODULES = {
    "ListRecord": "schema",
    "Manifest": "manifest",
    "Passage": "schema",
    "records_fingerprint": "sets",
    "write_lists": "sets",
    "write_passages": "sets",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use: the step uses this package where no TFRecord can be read."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
