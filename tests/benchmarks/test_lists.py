"""The benchmark's lists: what is stored comes back, and what is random is what it claims to be."""

import subprocess
import sys

import numpy as np
import pytest

from ldx.common.errors import UserError
from tests.benchmarks.lists import (
    PASSAGE_LENGTHS,
    BenchmarkLists,
    StoredTexts,
    load,
    save,
    synthetic_lists,
)
from tests.benchmarks.make_lists import calibrated, find_lists, make_lists, own_first


@pytest.fixture
def small_lists() -> BenchmarkLists:
    passages = [np.arange(10, 10 + n, dtype=np.int32) for n in (3, 0, 7)]
    return BenchmarkLists(
        passages=StoredTexts.of(passages),
        queries=StoredTexts.of([np.array([5, 6], np.int32)]),
        rows=np.array([[2, 0], [1, 2]], np.int32),
        teacher_scores=np.array([[1.0, 0.5], [0.25, 0.0]], np.float32),
        query=np.array([0, 0], np.int32),
        prefix=(101,),
        suffix=(102,),
        pad_id=0,
    )


def test_lists_come_back_as_they_were_saved(small_lists, tmp_path):
    save(tmp_path / "x.npz", small_lists)
    found = load(tmp_path / "x.npz")
    for name in ("rows", "teacher_scores", "query"):
        np.testing.assert_array_equal(getattr(found, name), getattr(small_lists, name))
        assert getattr(found, name).dtype == getattr(small_lists, name).dtype
    assert [found.passages[i].tolist() for i in range(3)] == [
        [10, 11, 12],
        [],
        [10, 11, 12, 13, 14, 15, 16],
    ]
    assert (found.prefix, found.suffix, found.pad_id) == ((101,), (102,), 0)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "x.npz")


def test_texts_are_cut_between_their_special_tokens(small_lists):
    assert small_lists.passage_ids(2, 5).tolist() == [101, 10, 11, 12, 102]
    assert small_lists.passage_ids(1, 5).tolist() == [101, 102]
    assert small_lists.query_ids(0, 5).tolist() == [101, 5, 6, 102]
    assert small_lists.passage_lengths(5).tolist() == [5, 2, 5]
    assert small_lists.passage_lengths(512).tolist() == [5, 2, 9]


def test_padding_goes_to_the_longest(small_lists):
    token_ids, mask = small_lists.padded_passages(np.array([0, 1]), 512)
    assert token_ids.tolist() == [[101, 10, 11, 12, 102], [101, 102, 0, 0, 0]]
    assert mask.tolist() == [[True] * 5, [True, True, False, False, False]]


def test_reading_takes_numpy_alone():
    heavy = ("jax", "torch", "tokenizers", "bm25s", "tqdm", "data_prep")
    code = f"import sys, tests.benchmarks.lists; print([x for x in {heavy} if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_random_lists_keep_their_promises():
    lists = synthetic_lists(50, 3000, 20, mean_length=120, seed=1)
    assert lists.rows.shape == (3000, 20)
    assert all(len(set(row)) == 20 for row in lists.rows.tolist())
    # Every passage, in every place, is drawn as often as any other: 60 times, deviation 7.7.
    counts = np.stack([np.bincount(column, minlength=50) for column in lists.rows.T])
    assert counts.shape == (20, 50)
    assert abs(counts - 60).max() < 6 * 7.7
    assert np.all(np.diff(lists.teacher_scores, axis=1) <= 0)
    again = synthetic_lists(50, 3000, 20, mean_length=120, seed=1)
    np.testing.assert_array_equal(again.rows, lists.rows)
    np.testing.assert_array_equal(again.passages[7], lists.passages[7])
    assert not np.array_equal(lists.rows, synthetic_lists(50, 3000, 20, 120, seed=2).rows)


def test_random_lists_of_a_large_corpus_hold_lengths_only():
    lists = synthetic_lists(1_000_000, 4096, 20, mean_length=120, seed=0)
    lengths = lists.passages.lengths
    assert (lengths.min(), lengths.max()) == PASSAGE_LENGTHS
    assert abs(lengths.mean() - 120) < 2  # clipping moves it a little
    assert len(np.unique(lists.rows)) > 78_000
    assert len(lists.passages[999_999]) == lengths[999_999]


def test_the_own_passage_goes_first_with_the_highest_score():
    scores = np.array(
        [[1, 4, 3, 2], [0, 4, 3, 9], [4, 3, 0, 0], [9, 8, 7, 1]],
        np.float32,
    )
    stays, rows, scores = own_first(scores, np.array([3, 3, 0, 3], np.int32), list_size=3)
    # The third query has no third passage that shares a word; the fourth misses its own.
    assert stays.tolist() == [True, True, False, False]
    assert rows.tolist() == [[3, 1, 2], [3, 1, 2]]
    assert scores.tolist() == [[4, 4, 3], [9, 4, 3]]


def test_lists_are_found_by_bm25():
    texts = ["lift of a wing", "drag of a wing", "a wing in flow", "blood cells", "wing tips"]
    queries = ["wing lift", "cells", "wing flow", "wing drag"]
    found = find_lists(texts, queries, np.array([0, 3, 2, 1]), num_lists=2, list_size=3)
    assert found.queries == ["wing lift", "wing flow"]
    assert found.rows[:, 0].tolist() == [0, 2]
    assert found.rows.dtype == np.int32


def test_scores_are_scaled_by_percentiles():
    scaled = calibrated(np.arange(101.0))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[[0, 1, 50, 99, 100]], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_lists_of_a_real_collection(data_dir, minilm):
    lists = make_lists(data_dir / "nfcorpus", num_lists=64)
    assert lists.rows.shape == (64, 20)
    assert len(lists.passages) == 3633
    assert np.all(np.diff(lists.teacher_scores, axis=1) <= 0)
    assert all(len(set(row)) == 20 for row in lists.rows.tolist())
    # Each query is a sentence of its first passage: its tokens stand there in a row.
    first = lists.passages[lists.rows[0, 0]].tolist()
    query = lists.queries[lists.query[0]].tolist()[1:-1]
    assert any(first[i : i + len(query)] == query for i in range(len(first)))
