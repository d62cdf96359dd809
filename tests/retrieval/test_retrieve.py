"""From a model or embeddings to a run: what is embedded once, and which passages are removed."""

from pathlib import Path

import numpy as np
import pytest

from ldx.eval.beir import Corpus, Dataset, load_dataset
from ldx.models.student import load_student
from ldx.models.towers import Towers
from ldx.retrieval.retrieve import (
    drop_self,
    evaluate_embeddings,
    excludes_self,
    queries_are_passages,
    retrieve,
)
from tests.helpers import count_texts
from tests.toy import make_dataset


def test_arguana_like_queries_are_detected() -> None:
    assert queries_are_passages(make_dataset({"a": "lift of a wing", "q": "other"}))
    assert queries_are_passages(make_dataset({"b": "Drag of a body"}))
    assert queries_are_passages(make_dataset({"c": "flow of air"}))
    assert not queries_are_passages(make_dataset({"a": "lift of a wing", "b": "something else"}))
    assert not queries_are_passages(make_dataset())


def test_nearly_all_shared_ids_will_do() -> None:
    ids = [str(i) for i in range(100)]
    corpus = Corpus(ids, [""] * 100, [f"text {i}" for i in ids])
    queries = {i: f"text {i}" for i in ids}
    for num_other, expected in ((5, True), (6, False)):
        changed = queries | {i: "other" for i in ids[:num_other]}
        dataset = Dataset(Path("toy"), "test", corpus, changed, {i: {"1": 1} for i in ids})
        assert queries_are_passages(dataset) is expected
    assert excludes_self(dataset, requested=True)


def test_equal_ids_are_chance_in_cranfield(data_dir: Path) -> None:
    dataset = load_dataset(data_dir / "cranfield", "test")
    assert set(dataset.queries) <= set(dataset.corpus.doc_ids)
    assert not excludes_self(dataset)


def test_a_cache_changes_nothing_but_what_a_second_run_embeds(tiny_bert, tmp_path, monkeypatch):
    dataset = make_dataset()
    student = load_student(tiny_bert)
    towers = Towers.of(student.params)
    sizes = count_texts(monkeypatch)
    expected = retrieve(dataset, student, towers)
    assert retrieve(dataset, student, towers, cache=tmp_path / "cache") == expected
    assert sizes == [4, 2, 4, 2]
    assert retrieve(dataset, student, towers, cache=tmp_path / "cache") == expected
    assert sizes[4:] == [2]
    retrieve(dataset, student, towers, cache=tmp_path / "cache", template="{text}")
    assert sizes[5:] == [4, 2]


def test_models_are_measured_by_exact_search_whatever_the_size(monkeypatch) -> None:
    """ScaNN finds more of one model's best passages than of another's."""
    monkeypatch.setattr("ldx.retrieval.search.MIN_SCANN_PASSAGES", 1)
    dataset = make_dataset({"a": "lift of a wing"})
    vectors = np.eye(4, dtype=np.float32)
    _, facts = evaluate_embeddings(dataset, vectors[:1], vectors, k=2, index="auto")
    assert facts == {"index": "exact", "recall_of_index": 1.0}


@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_own_passage_goes_only_on_request(exclude_self: bool) -> None:
    dataset = make_dataset({"a": "lift of a wing", "q": "other"})
    vectors = np.eye(4, dtype=np.float32) + np.float32(0.1) * np.arange(4, dtype=np.float32)
    run, facts = evaluate_embeddings(
        dataset, vectors[:2], vectors, k=2, exclude_self=exclude_self, index="exact"
    )
    scores = vectors[:2] @ vectors.T
    ids = np.array(dataset.corpus.doc_ids)
    for i, (query_id, scores_of_query) in enumerate(run.items()):
        expected = [d for d in ids[np.argsort(-scores[i])] if not (exclude_self and d == query_id)]
        assert list(scores_of_query) == expected[:2]
    assert facts == {"index": "exact", "recall_of_index": 1.0}
    assert ("a" in run["a"]) is not exclude_self
    assert drop_self({"a": {"a": 1.0, "b": 0.5}}) == {"a": {"b": 0.5}}
