"""What the page says of training data: lists of graded labels, and what is shared with the test."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ldx.data.cut import Cut
from ldx.records.manifest import Manifest
from ldx.report.training_data import data_section
from ldx.training.leakage import Leakage
from tests.report.hostile_run import Page

# What data_prep.grade tells of people's lists.
GRADED = {
    "human_dev": {"yields": {"queries": 25, "lists": 25}},
    "human": {
        "yields": {"queries": 30, "lists": 26, "one label alone": 3, "no entries": 1},
        "sources": {
            "people": {"label 3": 26, "label 1": 7, "lists with fewer than wanted": 0},
            "far": {"label 0": 50, "label 10": 2, "lists with fewer than wanted": 4},
        },
    },
}


class Tables(HTMLParser):
    """Rows of cells of every table, by its caption, and the text around them."""

    def __init__(self, html: str):
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.text = ""
        self._tag = self._caption = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        if tag == "table":
            self._caption = ""
        if tag == "tr":
            self.rows.setdefault(self._caption, []).append([])
        if tag in ("td", "th"):
            self.rows[self._caption][-1].append("")

    def handle_data(self, data):
        self.text += data
        if self._tag == "caption" and data.strip():
            self._caption = data
        if self._tag in ("td", "th") and data.strip():
            self.rows[self._caption][-1][-1] += data


def make_manifest(**options):
    return Manifest(
        collection="c", num_passages=9, num_lists={"train": {"human": 20}, "dev": {"human": 6}},
        fingerprints={}, passage_template="{text}", max_chars=None, teachers=[], seed=0, **options,
    )  # fmt: skip


def test_graded_lists():
    yields = {"grade": {"lists": 51, "human": "26 of 30", "facts": GRADED}}
    shown = Tables(data_section({"": make_manifest(yields=yields)}, {}, {}))
    assert shown.rows["Queries with graded lists, and why the others have none"] == [
        ["query type", "queries", "lists", "one label alone", "no entries"],
        ["human_dev", "25", "25", "0", "0"],
        ["human", "30", "26", "3", "1"],
    ]
    head = ["query type", "source", "label 10", "label 3", "label 1", "label 0"]
    assert shown.rows["Entries that the sources of graded lists gave, by label"] == [
        [*head, "lists with fewer than wanted"],
        ["human", "people", "0", "26", "7", "0", "0"],
        ["human", "far", "2", "0", "0", "50", "4"],
    ]
    # What every stage counted is told too, without the facts.
    assert ["grade", "human", "26 of 30"] in shown.rows[""]
    assert len([row for row in shown.rows[""] if row[0] == "grade"]) == 2


def test_how_much_of_the_corpus_the_lists_touch():
    coverage = {"lists": 400, "passages": 1000, "first": 50, "first_10": 300, "anywhere": 900}
    yields = {"write_tfrecords": {"coverage": coverage}}
    text = Tables(data_section({"": make_manifest(yields=yields)}, {}, {})).text
    assert "400 training queries put 30% of the 1,000 passages among the first 10" in text
    assert "first, and " in text
    assert "training queries put" not in Tables(data_section({"": make_manifest()}, {}, {})).text


@pytest.mark.parametrize("facts", [{}, {"human": {}}, {"human": 3}, None, "none"])
def test_records_of_others_may_tell_what_they_like(facts):
    section = data_section({"": make_manifest(yields={"grade": {"facts": facts}})}, {}, {})
    assert "Entries that the sources" not in section


def test_what_is_shared_with_the_test_by_source():
    shared = "What training lists and test share"
    leakage = {name: Leakage(100, 20, first, 3, 40, 30, 7) for name, first in (("", 5), ("b", 6))}
    for name, counts in leakage.items():
        rows = Tables(data_section({name: make_manifest()}, leakage, {})).rows[shared]
        assert rows[0] == ["", "number"]
        assert [number for _, number in rows[1:]] == [str(value) for value in vars(counts).values()]
    both = Tables(data_section({"a": make_manifest(), "b": make_manifest()}, leakage, {}))
    assert ["training lists with the words of a test query", "6"] in both.rows[shared]
    assert both.text.count("What training lists and test share is not known") == 1


def test_what_is_shared_with_the_test_is_told(finished):
    """The first list has the words of the first test query, and the passage judged for it."""
    stored = json.loads((finished / "leakage.json").read_text())
    counts = {k: v for k, v in stored[""].items() if k != "fingerprint"}
    assert list(stored) == [""]
    assert (counts["lists_with_test_query"], counts["judgments_in_lists"]) == (1, 1)
    assert (counts["num_lists"], counts["num_queries"], counts["judged_passages"]) == (48, 20, 20)
    (line,) = [
        x for x in (finished / "stderr").read_text().splitlines() if "lists have the words" in x
    ]
    assert "1 of 48 training lists have the words of one of 20 test queries" in line
    assert json.loads((finished / "report" / "data.json").read_text())["leakage"] == {"": counts}
    text = Page(finished / "report" / "index.html").text
    assert "What the model's maximum lengths cut off" in text
    of_kinds = {cut["what"]: cut for cut in json.loads((finished / "cut.json").read_text())[""]}
    assert list(of_kinds) == ["passages", "queries of the lists", "test queries"]
    assert (of_kinds["passages"]["num_texts"], of_kinds["test queries"]["num_texts"]) == (40, 20)
    assert "What training lists and test share" in text
    names = (
        "training lists",
        "test queries",
        "training lists with the words of a test query",
        "test judgments (query, relevant passage) that such lists hold",
        "passages relevant to a test query",
        "of these, in a training list",
        "of these, first of a training list",
    )
    rows = re.search(r"(\d+)\s*".join(map(re.escape, names)) + r"(\d+)", text)
    assert rows, text
    assert [int(number) for number in rows.groups()] == list(counts.values())


def test_what_is_cut_off_by_source():
    lengths = np.array([10, 62, 63, 100])
    cut = Cut.of("passages", "model.passage_max_length", 64, 2, lengths)
    shown = Tables(data_section({"": make_manifest()}, {}, {"": [cut]}))
    rows = shown.rows["What the model's maximum lengths cut off"]
    assert rows[1] == ["passages", "4", "64", "50.0%", f"{39 / 235:.1%}"]
