"""What the training data let a run hope for, told before it and again under its verdict."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldx.common.files import read_json, write_json
from ldx.records.coverage import Coverage
from ldx.records.manifest import NDCG_BY_WEIGHT, Manifest

ADVICE_NAME = "advice.json"


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
    """A sentence where no hybrid of BM25 and the student ranks better than the student alone.

    They were compared by the dev queries that chose the hybrid's weight. Of teachers of other kinds
    nothing is known before training.
    """
    if len(manifest.teachers) != 1 or not _student_is_dense(manifest.teachers[0]):
        return ""
    scored = manifest.yields.get("score")
    facts = scored.get(manifest.teachers[0]["name"], {}) if isinstance(scored, dict) else {}
    curve = facts.get(NDCG_BY_WEIGHT, {})
    student = curve.get("1.0")
    if student is None or max(curve.values()) > student:
        return ""
    return (
        f"the teacher is the limit: by {facts['choice']}, no hybrid of BM25 and the untrained "
        f"student ranks better than that student alone (nDCG@10 {student:.4f}); another teacher "
        "would help (config.prep.teachers)"
    )


def _student_is_dense(teacher: Mapping[str, Any]) -> bool:
    """Whether a teacher is a hybrid whose dense retriever is the student, which has no path."""
    retrievers = teacher.get("retrievers")
    if teacher.get("kind") != "hybrid" or not isinstance(retrievers, dict):
        return False
    dense = [each for each in retrievers.values() if each.get("kind") == "dense"]
    return len(dense) == 1 and "path" not in dense[0]
