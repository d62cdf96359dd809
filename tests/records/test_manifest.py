"""The manifest survives, and a wrong one is told key by key."""

import dataclasses
import json

import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.records.manifest import Manifest
from ldx.records.schema import ListRecord, Passage
from ldx.records.sets import records_fingerprint, write_lists, write_passages


def make_list(number: int) -> ListRecord:
    empty = np.zeros(0, np.float32)
    kind = "title" if number % 2 else "keywords"
    rows, labels = np.array([number, 0]), np.array([1, -1], np.int32)
    return ListRecord(f"l{number}", "q", "why", kind, "c", -1, rows, labels, empty, empty)


@pytest.fixture
def records(tmp_path):
    num_passages = write_passages(tmp_path, [Passage(f"d{n}", "", "text") for n in range(20)])
    lists = [make_list(number) for number in range(10)]
    num_lists = write_lists(tmp_path, {"train": lists[:7], "dev": lists[7:]})
    manifest = Manifest(
        collection="scifact",
        num_passages=num_passages,
        num_lists=num_lists,
        fingerprints={n: records_fingerprint(tmp_path, n) for n in ("passages", "lists")},
        passage_template="{title} {text}",
        max_chars=None,
        teachers=[{"name": "hybrid", "weight": 0.5}],
        seed=3,
        yields={"mine": {"in": 50, "out": 43}},
        versions={"ldx": "0.1.0"},
    )
    manifest.write(tmp_path)
    return tmp_path


def change(records, **changes):
    path = records / "manifest.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def test_round_trip(records):
    manifest = Manifest.read(records)
    (records / "manifest.json").unlink()
    manifest.write(records)
    assert Manifest.read(records) == manifest
    assert manifest.teachers[0]["weight"] == 0.5
    assert manifest.num_lists["dev"] == {"title": 2, "keywords": 1}


def test_sets_of_another_preparation_are_told(records):
    """With the same numbers of lists and passages, so that only their content differs."""
    manifest = Manifest.read(records)
    manifest.check_files(records)
    others = [make_list(number) for number in (1, 0, 2, 3, 4, 5, 6)]
    write_lists(records, {"train": others, "dev": [make_list(n) for n in (7, 8, 9)]})
    with pytest.raises(UserError, match=r"lists: not what manifest\.json was written for"):
        manifest.check_files(records)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "3"}, "seed is '3'"),
        ({"num_passages": True}, "num_passages is True"),
        ({"max_chars": 2.5}, r"max_chars is 2\.5"),
        ({"order_key": 3}, "order_key is 3"),
        ({"seed": ...}, "the key seed is missing"),
        ({"colour": 1}, "the key colour is unknown"),
        ({"format_version": 99}, "format_version is 99, not 1"),
        ({"teachers": [{"weight": 1}]}, r"teachers\[0\] is"),
        ({"fingerprints": {"lists": "x"}}, r"fingerprints\.passages is missing"),
        (
            {"judges": {"human": ["people", "nobody"]}},
            r"judges\.human is .*known are people, a lan",
        ),
        ({"judges": {"human": "people"}}, r"judges\.human is 'people'"),
        ({"judges": ["people"]}, r"judges is \['people'\]"),
        ({"num_lists": {"train": 3}}, r"num_lists\.train is 3"),
        ({"num_passages": 21}, "the manifest says"),
        ({"num_lists": {"train": {"title": 7}, "dev": {}}}, "the manifest says"),
    ],
)
def test_wrong_manifests(records, changes, message):
    change(records, **changes)
    with pytest.raises(UserError, match=message) as error:
        Manifest.read(records)
    assert str(records / "manifest.json") in str(error.value)
    assert "python -m data_prep.run --config=" in str(error.value)


def test_all_wrong_keys_are_told_at_once(records):
    change(records, seed=..., colour=1, versions=[])
    with pytest.raises(UserError) as error:
        Manifest.read(records)
    assert all(word in str(error.value) for word in ("seed", "colour", "versions"))


def test_nothing_need_be_said_of_the_order_key(records):
    change(records, order_key=...)
    assert Manifest.read(records).order_key == ""


@pytest.mark.parametrize(
    ("changes", "human", "mine"),
    [
        ({"judges": {"human": ["a language model"]}}, ["a language model"], []),
        ({"judges": {"mine": ["people"]}}, [], ["people"]),
        # Older records: their types tell, but not of graded lists.
        ({"judges": ...}, ["people"], []),
        ({"judges": ..., "yields": {"grade": {}}}, ["a source that the records do not name"], []),
    ],
)
def test_who_judged(records, changes, human, mine):
    change(records, **changes)
    manifest = Manifest.read(records)
    assert manifest.judges_of("human") == human
    assert manifest.judges_of("mine") == mine
    assert manifest.judges_of("title") == []
    assert manifest.judges_of("human_dev") == ["people"]


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_not_an_object(records, text):
    (records / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: not "):
        Manifest.read(records)


def test_missing(records, tmp_path):
    with pytest.raises(UserError, match=r"no records(.|\n)*python -m data_prep\.run"):
        Manifest.read(tmp_path / "nowhere")
    (records / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"incomplete records(.|\n)*python -m data_prep\.run"):
        Manifest.read(records)


@pytest.mark.parametrize("name", ["passages", "lists"])
def test_missing_set(records, name):
    (records / name).rename(records / "elsewhere")
    with pytest.raises(UserError, match=f"the {name} are missing"):
        Manifest.read(records)


def test_writing_checks_the_counts(records):
    wrong = dataclasses.replace(Manifest.read(records), num_passages=1)
    with pytest.raises(UserError, match="the manifest says"):
        wrong.write(records)
