"""Micro-batches hold every text once, in shapes that were known before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldx.data.batching import Shapes, cut_microbatches
from ldx.errors import UserError


@given(st.lists(st.integers(2, 128), max_size=200), st.sampled_from([1, 2, 8]))
def test_every_text_once_and_it_fits(lengths, num_devices):
    shapes = Shapes.make(128, 512, num_devices=num_devices)
    batches = cut_microbatches(np.array(lengths, int), shapes)
    texts = [int(t) for batch in batches for t in batch.texts]
    assert sorted(texts) == list(range(len(lengths)))
    for batch in batches:
        assert (batch.rows, batch.length) in shapes.shapes
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
