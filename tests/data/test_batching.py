"""Micro-batches hold every text once, in shapes that were known before."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldx.common.errors import UserError
from ldx.data.batching import (
    LENGTH_STEP,
    Shapes,
    best_lengths,
    cut_microbatches,
    limit_to_batch,
)


@given(st.lists(st.integers(2, 128), max_size=200), st.sampled_from([1, 2, 8]))
def test_every_text_once_and_it_fits(lengths, num_devices):
    shapes = Shapes.make(128, 512, num_devices=num_devices)
    batches = cut_microbatches(np.array(lengths, int), shapes)
    texts = [int(t) for batch in batches for t in batch.texts]
    assert sorted(texts) == list(range(len(lengths)))
    for batch in batches:
        assert (batch.rows, batch.length) in shapes.all
        assert batch.rows % num_devices == 0
        assert max(lengths[t] for t in batch.texts) <= batch.length
    assert all(len(batch.texts) == batch.rows for batch in batches[:-1])


def test_like_lengths_share_a_microbatch():
    shapes = Shapes.make(128, 256)
    lengths = np.array([10, 120, 12, 128, 30, 31] * 8)
    tokens = sum(b.rows * b.length for b in cut_microbatches(lengths, shapes))
    assert tokens < len(lengths) * 128 / 1.8


def test_shapes_cover_the_longest_text():
    assert Shapes.make(100, 4096).shapes[-1][1] == 100
    with pytest.raises(UserError, match=r"bucket_lengths=\(16, 64\)"):
        Shapes.make(100, 4096, lengths=(64, 16))


def test_a_microbatch_has_a_row_for_every_device():
    assert Shapes.make(512, 64, num_devices=8).shapes[-1] == (8, 512)


@given(st.lists(st.integers(3, 140), min_size=1, max_size=60), st.integers(1, 4))
def test_best_lengths_are_the_best_there_are(lengths, num_lengths):
    """Against every choice of edges, for texts cut at 100 tokens."""
    lengths = np.minimum(np.array(lengths), 100)
    found = best_lengths(lengths, 100, num_lengths)

    def padded(edges):
        return int(np.array(edges)[np.searchsorted(edges, lengths)].sum())

    top = min(100, -(-int(lengths.max()) // LENGTH_STEP) * LENGTH_STEP)
    others = range(LENGTH_STEP, top, LENGTH_STEP)
    choices = [
        [*chosen, top]
        for n in range(min(num_lengths, len(others) + 1))
        for chosen in itertools.combinations(others, n)
    ]
    assert found[-1] == top
    assert len(found) <= num_lengths
    assert padded(found) == min(map(padded, choices))


def test_a_last_microbatch_of_few_short_texts_is_small():
    shapes = Shapes.make(64, 1024, lengths=(16, 64))
    assert [b.rows for b in cut_microbatches(np.full(5, 10), shapes)] == [8]
    assert [b.rows for b in cut_microbatches(np.full(70, 10), shapes)] == [64, 8]
    assert [b.rows for b in cut_microbatches(np.full(20, 10), shapes)] == [32]


def test_microbatch_tokens_are_those_of_a_device():
    assert Shapes.make(64, 256, num_devices=4, lengths=(64,)).shapes == ((16, 64),)


def test_a_small_batch_fills_several_micro_batches():
    """32 queries of 18 tokens would all be padded to the longest of them."""
    assert limit_to_batch(2048, 32 * 20.0, 48, "cpu") == 160
    assert limit_to_batch(2048, 50.0, 48, "cpu") == 48
    assert limit_to_batch(2048, 1e6, 48, "cpu") == 2048
    assert limit_to_batch(32_768, 640.0, 48, "gpu") == 32_768
