"""Tests of data_prep/retrieval/candidates.py and data_prep/retrieval/retrievers.py."""

import numpy as np
import pytest

from configs import base
from data_prep.corpora.passages import Passages, Roles
from data_prep.retrieval.bm25 import Bm25
from data_prep.retrieval.candidates import Candidates
from data_prep.retrieval.dense import DenseModel
from data_prep.retrieval.fusion import Selection, fuse, make_candidates, top_rows, z_scores
from data_prep.retrieval.retrievers import (
    Bm25Retriever,
    DenseRetriever,
    retriever_sections,
    second_moments,
)
from ldx.common.errors import UserError
from tests.conftest import TINY_WORDS

RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(TINY_WORDS, size=9)) for _ in range(40)]
QUERIES = ["banded linear system", "drag of the wing", "zzz"]
IDS = ["a", "b", "c"]


def test_fuse_is_reciprocal_rank():
    fused = fuse([np.array([3, 1, 2]), np.array([1, 4])], 10)
    score = {1: 1 / 62 + 1 / 61, 3: 1 / 61, 4: 1 / 62, 2: 1 / 63}
    assert fused.tolist() == sorted(score, key=lambda row: -score[row])
    assert fuse([np.array([2]), np.array([1])], 1).tolist() == [1]


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_top_rows_breaks_ties_by_row_and_skips_infinite(k):
    rows, scores = np.array([7, 5, 2, 3, 4]), np.array([1.0, 3.0, -np.inf, 3.0, 3.0])
    assert top_rows(rows, scores, k).tolist() == [3, 4, 5, 7][:k]


@pytest.fixture(scope="module")
def model(tiny_bert):
    section = base.get_config().model.to_dict()
    section |= {"path": str(tiny_bert), "query_max_length": 32, "passage_max_length": 64}
    return DenseModel("student", section)


def make_retrievers(model, folder, excluded=(), depth=5):
    excluded = np.isin(np.arange(len(TEXTS)), excluded)
    none, container = np.zeros(len(TEXTS), bool), np.full(len(TEXTS), -1)
    roles = Roles(excluded, none, container, ~excluded)
    passages = Passages(TEXTS, "texts", roles)  # type: ignore[arg-type]
    bm25 = Bm25.open_or_build(folder, TEXTS, key="texts", language="english")
    return [
        Bm25Retriever(bm25, passages, depth),
        DenseRetriever(model, passages, folder, depth, "exact", QUERIES),
    ]


def mine(model, folder, added=((0,), (0,), (0,)), selection=None, **options):
    retrieved = [each.find(QUERIES, IDS) for each in make_retrievers(model, folder, **options)]
    return make_candidates(retrieved, added, selection or Selection(options.get("depth", 5)))


def all_scores(model, folder):
    """Every score of both retrievers, [Q, R, N]."""
    lexical = list(make_retrievers(model, folder)[0].find(QUERIES, IDS))
    rows = np.arange(len(TEXTS))
    dense = model.embed(QUERIES, "query") @ model.embed(TEXTS, "passage").T
    return np.stack([np.stack([one.score(rows) for one in lexical]), dense], axis=1)


def test_candidates_carry_scores_and_moments_of_the_whole_corpus(model, tmp_path):
    candidates, scores = mine(model, tmp_path), all_scores(model, tmp_path)
    for query in range(3):
        valid = candidates.rows[query] >= 0
        rows = candidates.rows[query, valid]
        assert len(set(rows.tolist())) == len(rows)
        assert 0 in rows
        np.testing.assert_allclose(
            candidates.scores[query][:, valid], scores[query][:, rows], atol=1e-5
        )
        assert (candidates.fused_rank[query, :5] == np.arange(1, 6)).all()
        expected = np.stack([scores[query].mean(axis=1), scores[query].std(axis=1)], axis=1)
        np.testing.assert_allclose(candidates.moments[query], expected, atol=1e-5)
    # The corpus has no word of the last query, so the dense ranking alone counts.
    dense_ranking = top_rows(np.arange(len(TEXTS)), scores[2, 1], 5)
    assert candidates.rows[2, :5].tolist() == dense_ranking.tolist()


def test_added_passages_are_no_finds_and_excluded_ones_are_absent(model, tmp_path):
    plain = mine(model, tmp_path)
    excluded = plain.rows[0, :2].tolist()
    absent = next(r for r in range(40) if r not in plain.rows[0])
    candidates = mine(model, tmp_path, excluded=excluded, added=((absent, 0), (0,), (0,)))
    assert not set(excluded) & set(candidates.rows.ravel().tolist())
    column = candidates.rows[0].tolist().index(absent)
    assert (candidates.fused_rank[0, column] == 0) == (column >= 5)
    assert candidates.rows[0].tolist().count(absent) == 1
    assert (candidates.fused_rank[candidates.rows < 0] == 0).all()


def test_they_are_a_file_and_can_be_joined(model, tmp_path):
    candidates = mine(model, tmp_path)
    (tmp_path / "c.npz").write_bytes(candidates.to_bytes())
    loaded = Candidates.load(tmp_path / "c.npz")
    assert all((vars(loaded)[name] == values).all() for name, values in vars(candidates).items())
    narrow = Candidates(
        *(x[..., :2] for x in list(vars(candidates).values())[:3]), candidates.moments
    )
    both = Candidates.concatenate([narrow, candidates])
    assert both.rows.shape == (6, candidates.rows.shape[1])
    assert (both.rows[:3, 2:] == -1).all()
    assert (both.take(np.array([4])).scores == candidates.scores[1]).all()


def test_selections():
    scores = np.array([9.0, 8.0, 7.9, 7.8, 1.0, 0.5, 0.0])
    assert Selection(7).choose(scores).tolist() == list(range(7))
    assert Selection(7, range_min=1, range_max=4).choose(scores).tolist() == [1, 2, 3]
    assert Selection(7, range_min=2, num_candidates=2).choose(scores).tolist() == [2, 3]
    spread = Selection(7, strategy="spread", num_candidates=3).choose(scores)
    assert spread.tolist() == [0, 3, 6]  # near 9, 4.5 and 0
    assert Selection(7, strategy="spread", num_candidates=50).choose(scores).tolist() == [*range(7)]


def test_a_query_keeps_its_own_passage_whatever_is_selected(model, tmp_path):
    whole = mine(model, tmp_path)
    own = int(whole.rows[0, 0])
    selection = Selection(5, range_min=2, range_max=4)
    candidates = mine(model, tmp_path, added=((own,), (0,), (0,)), selection=selection)
    assert candidates.rows[0, :3].tolist() == whole.rows[0, [0, 2, 3]].tolist()
    assert candidates.fused_rank[0, :3].tolist() == [1, 3, 4]


def test_z_scores_of_a_retriever_that_says_nothing_are_0():
    scores, moments = np.ones((1, 2, 3)), np.array([[[1.0, 0.0], [0.0, 2.0]]])
    assert z_scores(scores, moments).tolist() == [[[0, 0, 0], [0.5, 0.5, 0.5]]]


def test_second_moments_are_those_of_all_passages(monkeypatch):
    monkeypatch.setattr("data_prep.retrieval.retrievers.EMBEDDINGS_AT_ONCE", 3)
    embeddings = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float16)
    mean, second = second_moments(embeddings)
    exact = embeddings.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0))
    np.testing.assert_allclose(second, np.einsum("nd,ne->de", exact, exact) / 10)


def test_another_model_has_its_own_prompts():
    model = base.get_config().model.to_dict() | {"path": "student", "query_prompt": "q: "}
    sections = retriever_sections(
        {"a": {"kind": "dense"}, "b": {"kind": "dense", "path": "other", "dtype": "bfloat16"}},
        model,
    )
    assert sections["a"].settings == model
    assert sections["b"].settings["query_prompt"] is None
    assert sections["b"].settings["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "sparse"}, "known are bm25, run, dense"),
        ({"kind": "bm25", "k1": 2}, r"retrievers\.x\.k1"),
        ({"kind": "run"}, r"retrievers\.x\.path is missing"),
        ({"kind": "dense", "poolin": "cls"}, "did you mean pooling"),
    ],
)
def test_bad_retrievers_are_refused(section, message):
    with pytest.raises(UserError, match=message):
        retriever_sections({"x": section}, base.get_config().model.to_dict())
