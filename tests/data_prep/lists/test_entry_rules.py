"""Tests of data_prep/lists/entry_rules.py: lists by hand."""

import numpy as np
import pytest

from data_prep.lists.entry_rules import Material, choose_all, entry_rules, ordered
from ldx.common.errors import UserError

# Rows 1 to 5 are judged; the draw puts row 3 before 1, and row 5 before 4.
JUDGED = {1: 2, 2: 0, 3: 2, 4: 1, 5: 1}
MATERIAL = Material(
    JUDGED,
    {3: 103, 2: 102, 1: 101, 0: 100},
    np.array([7, 3, 8, 9, 6, 10]),
    np.array([1, 2, 3, 4, 6, 7]),
    draw=lambda row: {3: 0.1, 1: 0.2, 5: 0.3, 4: 0.4, 2: 0.5}[row],
)
JUDGED_ALL = {"kind": "judged"}


def entries(sections, material=MATERIAL):
    return ordered(choose_all(entry_rules(sections), material))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "judged"}, [(3, 2), (1, 2), (5, 1), (4, 1), (2, 0)]),
        # One of each grade, then the second ones.
        ({"kind": "judged", "num": 2}, [(3, 2), (5, 1)]),
        ({"kind": "judged", "num": 4}, [(3, 2), (1, 2), (5, 1), (2, 0)]),
        ({"kind": "judged", "num": 2, "relabel": {"1": 3}}, [(5, 3), (3, 2)]),
        ({"kind": "synthetic"}, [(103, 3), (102, 2), (101, 1), (100, 0)]),
        ({"kind": "synthetic", "levels": (0, 3)}, [(103, 3), (100, 0)]),
        # Row 3 is judged, so it is not mined.
        ({"kind": "mined", "num": 2}, [(7, 0), (8, 0)]),
        ({"kind": "mined", "num": 3, "label": 1, "range_min": 2}, [(8, 1), (9, 1), (6, 1)]),
        ({"kind": "mined", "num": 2, "range_min": 3, "range_max": 5}, [(9, 0)]),
        ({"kind": "mined", "num": 0}, []),
    ],
)
def test_what_a_rule_gives(section, expected):
    assert entries({"one": section}) == expected


def test_rules_together():
    """The highest label comes first; among equals what was judged, then written, then mined."""
    sections = {
        "a": {"kind": "mined", "num": 1, "label": 0, "range_min": 3},
        "b": {"kind": "mined", "num": 1, "label": 1},
        "c": {"kind": "synthetic", "levels": (3, 1)},
        "d": {"kind": "judged", "num": 2, "relabel": {"2": 3}},
    }
    assert entries(sections) == [(3, 3), (103, 3), (5, 1), (101, 1), (7, 1), (9, 0)]


def test_no_row_stands_twice():
    sections = {
        "first": {"kind": "mined", "num": 2, "label": 1},
        "second": {"kind": "mined", "num": 2, "label": 0},
    }
    assert entries(sections) == [(7, 1), (8, 1), (9, 0), (6, 0)]


def test_no_written_passage_stands_twice():
    sections = {
        "first": {"kind": "synthetic", "levels": (3, 0)},
        "second": {"kind": "synthetic", "levels": (2, 3)},
    }
    assert entries(sections) == [(103, 3), (102, 2), (100, 0)]


def test_what_is_not_there_is_not_filled_up():
    nothing = Material()
    sections = {"a": {"kind": "synthetic"}, "b": {"kind": "mined", "num": 3}, "c": JUDGED_ALL}
    assert entries(sections, nothing) == []
    written = Material(written={3: 103})
    assert entries(sections, written) == [(103, 3)]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "judged", "num": -1}, r"graded\.one\.num=-1: wanted at least 0, or None"),
        ({"kind": "judged", "relabel": {"1": -3}}, r"graded\.one\.relabel=.*such as"),
        ({"kind": "judged", "relabels": {}}, r"graded\.one\.relabels: there is no such key"),
        ({"kind": "synthetic", "levels": "321"}, r"graded\.one\.levels='321'"),
        ({"kind": "synthetic", "levels": 3}, r"graded\.one\.levels=3: wanted levels of the"),
        ({"kind": "synthetic", "levels": (3, 3)}, r"graded\.one\.levels=\(3, 3\): .* each once"),
        ({"kind": "synthetic", "levels": (3, True)}, r"graded\.one\.levels=\(3, True\)"),
        ({"kind": "mined", "num": 3, "range_min": 2, "range_max": 4}, r"room for num=3"),
        ({"kind": "mined", "label": True}, r"graded\.one\.label=True"),
    ],
)
def test_settings_that_cannot_be(section, message):
    with pytest.raises(UserError, match=message):
        entry_rules({"one": section})
