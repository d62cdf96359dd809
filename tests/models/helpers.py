"""Model input, and files to spoil."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass
class HfBert:
    """A random model of transformers and the folder it was saved in."""

    model: Any
    folder: Path


def tokens(num_texts: int = 5, length: int = 19, vocab_size: int = 121) -> tuple[Any, Any]:
    """Random token ids and a mask with padding on the right, every length another."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(5, vocab_size, (num_texts, length)).astype(np.int32)
    lengths = np.linspace(2, length, num_texts).astype(int)
    return token_ids, np.arange(length)[None] < lengths[:, None]


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    value = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))
