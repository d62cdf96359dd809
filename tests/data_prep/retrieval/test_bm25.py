"""Tests of data_prep/retrieval/bm25.py, against bm25s."""

import pickle
import unicodedata

import bm25s
import numpy as np
import pytest
import Stemmer

from data_prep.retrieval import bm25 as module
from data_prep.retrieval.analyzer import Analyzer
from data_prep.retrieval.bm25 import Bm25

CORPUS = [
    "Solve a banded linear system of equations",
    "Solve a linear system; the system matrix is sparse",
    "Sort an array along an axis",
    "",
    "Sample from a normal distribution",
]
QUERIES = ["linear system system", "sort the samples", "unheardof", "normal array", "sort axis"]


@pytest.fixture
def index(tmp_path):
    return Bm25.open_or_build(tmp_path, CORPUS, key="corpus", language="english")


def dense_scores(index, queries):
    scores = np.zeros((len(queries), index.num_passages), np.float32)
    for row, matches in zip(scores, index.match_all(queries), strict=True):
        row[matches.rows] = matches.scores
    return scores


def reference_scores(corpus, queries):
    """The scores of bm25s, as its documentation says to use it."""

    def tokenize(texts, **settings):
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(
            texts, stopwords="en", stemmer=stemmer, show_progress=False, **settings
        )

    reference = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    reference.index(tokenize(corpus), show_progress=False)
    terms = tokenize(queries, return_ids=False)
    return np.stack([reference.get_scores(each) for each in terms])


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("english", "The systems, and SYSTEM of x equations", ["system", "system", "equat"]),
        ("german", "Die Häuser und ein Haus", ["haus", "haus"]),
        ("finnish", "talossa ja talo", ["talo", "ja", "talo"]),  # stems, but no list of stop-words
        ("", "The systems", ["the", "systems"]),
        ("turkish", "İstanbul IŞIK", ["istanbul", "ışık"]),
        ("french", unicodedata.normalize("NFD", "élève"), ["élev"]),
        ("hindi", "किताबें और किताब", ["किताब", "और", "किताब"]),
        # Scripts that do not set words apart: every two letters, and what stands between as ever.
        ("", "线性方程组。解", ["线性", "性方", "方程", "程组", "解"]),
        ("", "iPhone15手机壳2个", ["iphone15", "手机", "机壳", "个"]),
        ("", "ネコは好き", ["ネコ", "コは", "は好", "好き"]),
        ("", "データ・ベース", ["デー", "ータ", "ベー", "ース"]),
        ("", "น้ำ ไทย", ["น้", "้ำ", "ไท", "ทย"]),
        ("english", "the 水 systems", ["水", "system"]),
    ],
)
def test_terms(language, text, terms):
    analyzer = Analyzer(language)
    assert analyzer.terms([text, ""]) == [terms, []]
    assert analyzer.terms([]) == []


def test_chinese_is_found_by_its_words(tmp_path):
    texts = ["线性方程组的求解方法", "矩阵的特征值", "数组排序"]
    index = Bm25.open_or_build(tmp_path, texts, key="k", language="english")
    assert index.match("求解方程").rows.tolist() == [0]
    assert index.match("特征值分解").rows.tolist() == [1]
    assert index.match("sorting").rows.tolist() == []


def test_an_index_of_another_language_is_another_index(tmp_path):
    plain = Bm25.open_or_build(tmp_path, CORPUS, key="k", language="")
    assert plain.match("systems").rows.tolist() == []
    stemmed = Bm25.open_or_build(tmp_path, CORPUS, key="k", language="english")
    assert stemmed.match("systems").rows.tolist() == [0, 1]
    assert Bm25(stemmed.folder).match("systems").rows.tolist() == [0, 1]
    assert not plain.folder.exists()


@pytest.mark.parametrize("share", [0, 8, 10**9])
def test_scores_equal_bm25s(index, monkeypatch, share):
    """Scores are the same whether summed over all passages or over the matches alone."""
    monkeypatch.setattr(module, "DENSE_SHARE", share)
    scores = dense_scores(index, QUERIES)
    np.testing.assert_allclose(scores, reference_scores(CORPUS, QUERIES), atol=1e-6)
    for query, matches in zip(QUERIES, index.match_all(QUERIES), strict=True):
        assert (np.diff(matches.rows) > 0).all()
        assert (matches.rows == index.match(query).rows).all()


def test_scores_of_a_real_collection_equal_bm25s(data_dir, tmp_path, monkeypatch):
    """Scores of an index that was built in many chunks."""
    from ldx.eval import beir

    monkeypatch.setattr(module, "TEXTS_PER_CHUNK", 300)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 70)
    dataset = beir.load_dataset(data_dir / "cranfield", "test")
    index = Bm25.open_or_build(tmp_path, dataset.corpus.texts, key="cranfield", language="english")
    queries = list(dataset.queries.values())
    expected = reference_scores(dataset.corpus.texts, queries)
    np.testing.assert_allclose(dense_scores(index, queries), expected, atol=2e-5)


def test_moments_are_those_of_all_passages(index):
    scores = reference_scores(CORPUS, QUERIES)
    for row, matches in zip(scores, index.match_all(QUERIES), strict=True):
        mean, deviation = matches.moments(len(CORPUS))
        np.testing.assert_allclose([mean, deviation], [row.mean(), row.std()], atol=1e-6)
        np.testing.assert_allclose(matches.scores_of(np.arange(5)), row, atol=1e-6)


def test_pair_scores_equal_corpus_scores(index):
    texts = [*CORPUS[:4], CORPUS[2]]
    expected = dense_scores(index, QUERIES)[range(5), [0, 1, 2, 3, 2]]
    np.testing.assert_allclose(index.pair_scores(QUERIES, texts), expected, atol=1e-6)


def test_pair_scores_of_a_shortened_text(index):
    (whole,) = index.pair_scores(["banded system"], [CORPUS[0]])
    (shortened,) = index.pair_scores(["banded system"], ["Solve a linear system of equations"])
    assert 0 < shortened < whole


def test_rarity_is_idf(index):
    assert index.rarity("system") == pytest.approx(np.log1p((5 - 2 + 0.5) / 2.5))
    assert index.rarity("Systems") == index.rarity("system")
    assert index.rarity("unheardof") == 0


def test_a_killed_build_goes_on_and_other_keys_go(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_PER_CHUNK", 2)
    whole = Bm25.open_or_build(tmp_path / "whole", CORPUS, key="k", language="english")
    numbers_read = []

    class Texts:
        def __init__(self, stop):
            self.stop = stop

        def __len__(self):
            return len(CORPUS)

        def __getitem__(self, number):
            if number >= self.stop:
                raise KeyboardInterrupt
            numbers_read.append(number)
            return CORPUS[number]

    Bm25.open_or_build(tmp_path / "cut", CORPUS, key="old", language="english")
    with pytest.raises(KeyboardInterrupt):
        Bm25.open_or_build(tmp_path / "cut", Texts(3), key="k", language="english")
    numbers_read.clear()
    resumed = Bm25.open_or_build(tmp_path / "cut", Texts(9), key="k", language="english")
    assert numbers_read == [2, 3, 4]
    np.testing.assert_array_equal(dense_scores(resumed, QUERIES), dense_scores(whole, QUERIES))
    assert {p.name for p in (tmp_path / "cut").iterdir()} == {resumed.folder.name, ".lock"}
    copy = pickle.loads(pickle.dumps(resumed))
    np.testing.assert_array_equal(dense_scores(copy, QUERIES), dense_scores(whole, QUERIES))


def test_a_corpus_without_words(tmp_path):
    index = Bm25.open_or_build(tmp_path, ["", "the"], key="none", language="english")
    assert len(index.match("linear system").rows) == 0
    assert index.match("linear").scores_of(np.array([0, 1])).tolist() == [0, 0]
