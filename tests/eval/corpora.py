"""A small corpus, and how tests read one with its bad rows."""

import json
from pathlib import Path

import pytest

from ldx.common.errors import UserError
from ldx.eval.passages import read_passages
from ldx.eval.rows import BadRow
from ldx.records.schema import Passage

PASSAGES = [
    Passage("d1", "Lift", "The wing has lift."),
    Passage("d2", "", "Drag – of a wing. 😀"),
    Passage("3", "", "A third\npassage"),
]
RECORDS = [{"_id": p.doc_id, "title": p.title, "text": p.text} for p in PASSAGES]


def json_lines(records: list) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


class Rejected:
    """What was handed to `reject`, one tuple a row."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def __call__(self, bad: BadRow) -> None:
        self.rows.append((bad.where, bad.reason, bad.excerpt))


def read(
    source: str | Path, template: str | None = None
) -> tuple[list[str], list[Passage], Rejected]:
    rejected = Rejected()
    placed = list(read_passages(source, reject=rejected, template=template))
    return [where for where, _ in placed], [passage for _, passage in placed], rejected


def message(source: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        read(source)
    return str(caught.value)
