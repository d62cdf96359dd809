"""What the training data let a run hope for, told before it and again under its verdict."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldx.common.files import read_json, write_json
from ldx.records.coverage import Coverage
from ldx.records.manifest import Manifest

ADVICE_NAME = "advice.json"
CURVE = "nDCG@10 by weight"


def report_advice(workdir: Path, manifests: Mapping[str, Manifest]) -> None:
    """Warn of what is too little in the records, and keep it in WORKDIR/advice.json."""
    advice = []
    for name, manifest in manifests.items():
        coverage = Coverage.from_yields(manifest.yields)
        sentences = [coverage.advice() if coverage else "", teacher_advice(manifest)]
        advice += [f"{name}: {text}" if name else text for text in sentences if text]
    for text in advice:
        logging.warning("%s", text)
    write_json(workdir / ADVICE_NAME, advice)


def read_advice(workdir: Path) -> list[str]:
    """What `report_advice` kept; nothing where a run is older."""
    path = workdir / ADVICE_NAME
    return read_json(path) if path.is_file() else []


def teacher_advice(manifest: Manifest) -> str:
    """A sentence where the only teacher, a hybrid with the student in it, is no better than it.

    Both are measured on the dev queries that chose the hybrid's weight. Of other teachers nothing
    is known before training.
    """
    if len(manifest.teachers) != 1 or not _student_is_dense(manifest.teachers[0]):
        return ""
    scored = manifest.yields.get("score")
    facts = scored.get(manifest.teachers[0]["name"], {}) if isinstance(scored, dict) else {}
    curve = facts.get(CURVE, {})
    teacher, student = curve.get(str(facts.get("dense weight"))), curve.get("1.0")
    if teacher is None or student is None:
        return ""
    if teacher > student:
        return ""
    return (
        f"the teacher is the limit: its nDCG@10 is {teacher:.4f} on the dev queries that chose its "
        f"weight, and that of the untrained student {student:.4f}; a teacher that ranks better "
        "would help (config.prep.teachers)"
    )


def _student_is_dense(teacher: Mapping[str, Any]) -> bool:
    """Whether a teacher is a hybrid whose dense retriever is the student, which has no path."""
    retrievers = teacher.get("retrievers")
    if teacher.get("kind") != "hybrid" or not isinstance(retrievers, dict):
        return False
    dense = [each for each in retrievers.values() if each.get("kind") == "dense"]
    return len(dense) == 1 and "path" not in dense[0]
