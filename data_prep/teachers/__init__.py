"""Teachers: models, engines and files that score (query, passage) pairs; made by `make_teacher`."""

import importlib
from collections.abc import Mapping
from typing import Any

from data_prep.teachers.base import Pairs, Problem, Teacher
from ldx.common.errors import UserError

__all__ = ["TEACHER_CLASSES", "Pairs", "Problem", "Teacher", "make_teacher"]

TEACHER_CLASSES = {
    "cross_encoder": "data_prep.teachers.cross_encoder:CrossEncoder",
    "rank_t5": "data_prep.teachers.t5:RankT5",
    "mono_t5": "data_prep.teachers.t5:MonoT5",
    "yes_no": "data_prep.teachers.yes_no:YesNo",
    "layerwise": "data_prep.teachers.layerwise:Layerwise",
    "run_file": "data_prep.teachers.run_file:RunFile",
    "vllm": "data_prep.teachers.vllm_score:VllmTeacher",
}
"""The classes of teachers by kind; the arguments of a class are the keys of its section.

The kind `hybrid` has no class here: it scores no pairs of texts, but joins the scores of retrievers
that searched the whole corpus (`data_prep/teachers/hybrid.py`).
"""


def make_teacher(name: str, settings: Mapping[str, Any]) -> Teacher:
    """The teacher that the section `config.prep.teachers.NAME` describes.

    A model is looked for and its fingerprint taken here; it is loaded by the first `score`.

    Args:
      name: the section's name.
      settings: the section: `kind`, and the arguments of that kind's class.

    Raises:
      UserError: an unknown kind, an unknown or missing key, a value that cannot be, or no model.
    """
    # Imported here because it brings JAX, which the environment of an engine need not have.
    from ldx.common.sections import build

    where = f"prep.teachers.{name}"
    kind = settings.get("kind")
    if kind not in TEACHER_CLASSES:
        raise UserError(f"config.{where}.kind={kind!r}: known are {', '.join(TEACHER_CLASSES)}")
    module, _, class_name = TEACHER_CLASSES[kind].partition(":")
    make = getattr(importlib.import_module(module), class_name)
    try:
        teacher: Teacher = build(make, {k: v for k, v in settings.items() if k != "kind"}, where)
    except UserError as error:
        if where in str(error):
            raise
        raise UserError(f"config.{where}: {error}") from None
    return teacher
