"""Tests of ldx/retrieval/model.py, beside sentence-transformers."""

import dataclasses
import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from ldx.common.errors import UserError
from ldx.eval.beir import Corpus
from ldx.models.towers import Towers
from ldx.training.model import load_model

QUERIES = ["banded matrix solver", "wing lift and drag"]
PASSAGES = ["solve a linear system of banded matrix", "the lift of a wing", "blood cell protein"]


@pytest.fixture(scope="module")
def model(tiny_bert):
    return load_model(tiny_bert)


def test_embeddings_are_those_of_sentence_transformers(model, tiny_bert):
    other = SentenceTransformer(str(tiny_bert), device="cpu")
    for ours, theirs in [
        (model.encode_queries(QUERIES), other.encode_query(QUERIES)),
        (model.encode_passages(PASSAGES), other.encode_document(PASSAGES)),
    ]:
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_prompts_go_before_texts(tiny_bert):
    plain = load_model(tiny_bert)
    prompted = load_model(tiny_bert, query_prompt="query ", passage_prompt="passage ")
    np.testing.assert_array_equal(
        prompted.encode_queries(QUERIES), plain.encode_queries([f"query {q}" for q in QUERIES])
    )
    np.testing.assert_array_equal(
        prompted.encode_passages(PASSAGES),
        plain.encode_passages([f"passage {p}" for p in PASSAGES]),
    )


def test_no_text_and_one_text(model):
    assert model.encode_queries([]).shape == (0, 32)
    assert model.index([]).search("x") == []
    assert model.index(PASSAGES).search_all([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.encode_queries("one text"), "wanted a list of texts"),
        (lambda model: model.encode_queries(["a", None]), "text 1 is NoneType, wanted a string"),
        (lambda model: model.index([{"_id": "a"}]), "text 0 is dict"),
        (lambda model: model.index({"a": 3}), "text 0 is int"),
        (lambda model: model.index(PASSAGES).search("x", k=0), "k=0: wanted at least 1"),
    ],
)
def test_mistakes(model, call, message):
    with pytest.raises(UserError, match=message):
        call(model)


def test_a_model_is_shown_without_its_numbers(model):
    assert len(repr(model)) < 500
    assert len(repr(model.index(PASSAGES))) < 500


def test_a_search_is_the_dot_product_sorted(model):
    index = model.index(PASSAGES)
    scores = model.encode_queries(QUERIES) @ model.encode_passages([f" {p}" for p in PASSAGES]).T
    for hits, row in zip(index.search_all(QUERIES, k=2), scores, strict=True):
        order = np.argsort(-row)[:2]
        assert [hit.doc_id for hit in hits] == [str(i) for i in order]
        assert [hit.text for hit in hits] == [PASSAGES[i] for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], row[order], atol=1e-5)
    one, first_of_two = index.search(QUERIES[0], k=2), index.search_all(QUERIES, k=2)[0]
    assert [hit.doc_id for hit in one] == [hit.doc_id for hit in first_of_two]


def test_every_form_of_a_corpus_finds_the_same(model, tmp_path):
    ids = ["a", "b", "c"]
    with open(tmp_path / "corpus.jsonl", "w", encoding="utf-8") as file:
        for doc_id, text in zip(ids, PASSAGES, strict=True):
            file.write(json.dumps({"_id": doc_id, "title": "", "text": text}) + "\n")
    forms = [
        dict(zip(ids, PASSAGES, strict=True)),
        Corpus(ids, [""] * 3, PASSAGES),
        tmp_path,
        str(tmp_path / "corpus.jsonl"),
    ]
    found = [model.search(QUERIES[1], form) for form in forms]
    assert all(hits == found[0] for hits in found)
    numbered = model.search(QUERIES[1], PASSAGES)
    assert [ids[int(hit.doc_id)] for hit in numbered] == [hit.doc_id for hit in found[0]]


def test_a_saved_index_is_of_one_tower_of_passages(model, tiny_bert, tmp_path):
    path = tmp_path / "index.npy"
    index = model.index(PASSAGES)
    index.save(path)
    shorter_queries = load_model(tiny_bert, query_max_length=8, query_prompt="find ")
    for each in (model, shorter_queries):
        np.testing.assert_array_equal(
            each.index(PASSAGES, embeddings=path).embeddings, index.embeddings
        )
    assert model.index(PASSAGES, embeddings=index.embeddings).search(QUERIES[0]) == index.search(
        QUERIES[0]
    )
    other = load_model(tiny_bert, passage_prompt="a ", passage_template="{text}")
    message = r"another model(.|\n)*there: .*prompt ''(.|\n)*here: .*'a '.*'\{text\}'"
    for call in (
        lambda: other.index(PASSAGES, embeddings=path),
        lambda: other.index(PASSAGES, embeddings=str(path)),
    ):
        with pytest.raises(UserError, match=message):
            call()
    with pytest.raises(UserError, match="made of other passages"):
        model.index(PASSAGES[::-1], embeddings=path)
    with pytest.raises(UserError, match=r"of shape \(3, 32\), wanted \(2, 32\)"):
        model.index(PASSAGES[:2], embeddings=path)
    with pytest.raises(UserError, match=r"of shape \(3, 4\), wanted \(3, 32\)"):
        model.index(PASSAGES, embeddings=np.zeros((3, 4), np.float32))
    (tmp_path / "index.npy.json").unlink()
    with pytest.raises(UserError, match="nothing says which model made"):
        model.index(PASSAGES, embeddings=path)
    path.write_text("no array")
    with pytest.raises(UserError, match=r"not an \.npy file"):
        model.index(PASSAGES, embeddings=path)
    with pytest.raises(UserError, match="no such file"):
        model.index(PASSAGES, embeddings=tmp_path / "nowhere.npy")


def test_embeddings_of_the_base_model_are_mapped(model, tmp_path):
    path = tmp_path / "index.npy"
    model.index(PASSAGES).save(path)
    params, passage_map = model.student.params, np.eye(32, dtype=np.float32)[::-1].copy()
    mapped = dataclasses.replace(model, towers=Towers(params, params, passage_map))
    expected = mapped.index(PASSAGES)
    given = mapped.index(PASSAGES, embeddings=path)
    np.testing.assert_array_equal(given.embeddings, expected.embeddings)
    assert not np.array_equal(given.embeddings, model.index(PASSAGES).embeddings)
    with pytest.raises(UserError, match="does not say whether this model's passage map is in it"):
        mapped.index(PASSAGES, embeddings=np.load(path))
    given.save(path)
    np.testing.assert_array_equal(
        mapped.index(PASSAGES, embeddings=path).embeddings, expected.embeddings
    )
    with pytest.raises(UserError, match="another model"):
        model.index(PASSAGES, embeddings=path)


def test_a_killed_save_leaves_no_facts_of_what_was_there_before(model, tmp_path, monkeypatch):
    path, index = tmp_path / "index.npy", model.index(PASSAGES)
    index.save(path)
    monkeypatch.setattr("ldx.retrieval.model.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.save(path)
    with pytest.raises(UserError, match="missing, so nothing says which model made"):
        model.index(PASSAGES, embeddings=path)


def test_several_arrays_are_no_index(model, tmp_path):
    np.savez(tmp_path / "index.npz", a=np.zeros((3, 4)))
    with pytest.raises(UserError, match="but of several arrays"):
        model.index(PASSAGES, embeddings=tmp_path / "index.npz")
