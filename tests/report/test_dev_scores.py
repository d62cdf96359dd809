"""Scores of dev lists against sentence-transformers, nDCG by its formula, going on after a kill."""

import dataclasses

import numpy as np
import pytest

from ldx.models.student import load_student
from ldx.models.towers import Towers
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet, PassageSet
from ldx.report.dev_scores import EMBEDDINGS_NAME, NAME, make_dev_scores
from tests import toy


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return toy.make_records(tmp_path_factory.mktemp("records"), num_train=8)


@pytest.fixture(scope="module")
def student(tiny_bert):
    return load_student(str(tiny_bert), query_max_length=16, passage_max_length=32)


def make(folder, records, student, **options):
    towers = {"base": lambda: Towers.of(student.params), "trained": None}
    return make_dev_scores(folder, records, Manifest.read(records), student, towers, **options)


def test_scores_and_ndcg(records, student, tiny_bert, tmp_path):
    import sentence_transformers

    prompted = student.with_prompts("the ", "a ")
    dev = make(tmp_path, records, prompted)
    model = sentence_transformers.SentenceTransformer(str(tiny_bert), device="cpu")
    lists, texts = list(ListSet(records, "dev")), list(PassageSet(records))
    rows = sorted({int(row) for record in lists for row in record.rows})
    passages = dict(zip(rows, model.encode(["a " + texts[r].text for r in rows]), strict=True))
    queries = model.encode(["the " + record.query for record in lists])
    assert dev.num_passages == len(rows)
    for i, (record, query) in enumerate(zip(lists, queries, strict=True)):
        scores = [query @ passages[int(row)] for row in record.rows]
        np.testing.assert_allclose(dev.scores["base"][i, : len(scores)], scores, atol=1e-5)
        assert not dev.scores["base"][i, len(scores) :].any()
        own = query @ passages[int(record.rows[0])]
        place = 1 + sum(query @ passages[row] > own + 1e-6 for row in rows)
        gain = 1 / np.log2(place + 1) if place <= 10 else 0.0
        assert dev.ndcg["base"][i] == pytest.approx(gain)
    np.testing.assert_array_equal(dev.scores["trained"], dev.scores["base"])
    assert 0 < dev.ndcg["base"].mean() < 1


def test_prompts_of_a_source_are_its_own(student):
    assert student.with_prompts(None, None) is student
    config = student.with_prompts(None, "p: ").config
    assert config == dataclasses.replace(student.config, passage_prompt="p: ")


def test_what_is_there_is_not_made_again(records, student, tmp_path):
    dev = make(tmp_path, records, student, list_size=3)
    assert dev.table.list_size == 3
    assert not (tmp_path / EMBEDDINGS_NAME).exists()
    assert (tmp_path / NAME).is_file()

    def never():
        raise AssertionError("parameters were asked for")

    again = make_dev_scores(
        tmp_path, records, Manifest.read(records), student, {"base": never, "trained": never},
        list_size=3,
    )  # fmt: skip
    for system in ("base", "trained"):
        np.testing.assert_array_equal(again.scores[system], dev.scores[system])
        np.testing.assert_array_equal(again.ndcg[system], dev.ndcg[system])


def test_a_kill_leaves_what_was_embedded(records, student, tmp_path):
    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 2:  # the passages are there, the queries are not
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, records, student, microbatch_tokens=4096, check=check)
    assert (tmp_path / EMBEDDINGS_NAME / "base.npy").is_file()
    assert not (tmp_path / NAME).exists()
    dev = make(tmp_path, records, student, microbatch_tokens=4096, check=check)
    assert calls == 3  # the queries alone
    assert np.isfinite(dev.scores["base"]).all()
