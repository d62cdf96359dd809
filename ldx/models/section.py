"""The keys of `config.model`, checked without JAX, which takes seconds to import."""

from collections.abc import Mapping
from typing import Any

from ldx.common.sections import check_keys

MODEL_KEYS = (
    "path",
    "pooling",
    "normalize",
    "query_prompt",
    "passage_prompt",
    "query_max_length",
    "passage_max_length",
    "attention",
    "dtype",
    "remat",
)
"""The arguments of `ldx.models.student.load_student`."""


def check_model_section(section: Mapping[str, Any]) -> None:
    """Refuse keys that a student does not have, before anything is loaded.

    Raises:
      UserError: there is such a key.
    """
    check_keys(section, list(MODEL_KEYS), "model")


def text_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `config.model` that say how texts are put to the model."""
    others = ("path", "attention", "dtype", "remat")
    return {key: section[key] for key in MODEL_KEYS if key in section and key not in others}
