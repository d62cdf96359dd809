"""Tests of data_prep/lists/results.py."""

from pathlib import Path

import pytest

from data_prep.lists.results import judges_of
from data_prep.pipeline.workspace import open_workspace
from ldx.common.files import write_json
from tests.data_prep.toy import make_config


@pytest.mark.parametrize(
    ("counts", "judges"),
    [
        ({"real": {"label 3": 4, "label 0": 1}}, ["people"]),
        ({"written": {"label 3": 4, "label 0": 1}}, ["a language model"]),
        ({"written": {"label 2": 4}, "real": {"label 3": 2}}, ["people", "a language model"]),
        # What is not relevant, or stands in no list, is nobody's judgment of relevance.
        ({"real": {"label 1": 4}, "found": {"label 0": 8}}, ["people"]),
        ({"written": {"label 1": 4}, "real": {"lists with fewer than wanted": 3}},
         ["a language model"]),
        ({"found": {"label 10": 1}}, ["retrievers"]),
    ],
)  # fmt: skip
def test_who_judged_is_whose_entries_are_relevant(counts, judges, tmp_path):
    workspace = open_workspace(make_config(tmp_path, Path("no student")), tmp_path / "work")
    kinds = {"written": "synthetic", "real": "judged", "found": "mined"}
    sources = {name: {"kind": kind} for name, kind in kinds.items()}
    value = {"types": ["human"], "sources": sources, "facts": {"human": {"sources": counts}}}
    write_json(workspace.prep / "graded.json", value)
    assert judges_of(workspace, "human") == judges
