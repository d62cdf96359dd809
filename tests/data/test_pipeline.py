"""Batches are a pure function of seed and step, whole epochs, the same through Grain."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ldx.data.pipeline import BatchSource, epoch_batches, num_batches, read_ahead


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 5))
def test_an_epoch_is_a_permutation_in_even_batches(num_lists, batch_size, epoch):
    batches = epoch_batches(num_lists, batch_size, seed=1, epoch=epoch)
    assert len(batches) == num_batches(num_lists, batch_size)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(num_lists))
    sizes = [len(b) for b in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ():
    drawn = [
        np.concatenate(epoch_batches(50, 50, seed, epoch)).tolist()
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def make_source():
    return BatchSource(list(range(50)), sorted, batch_size=8, seed=3, num_steps=40)


def test_reading_ahead_goes_on_from_any_step():
    whole = list(read_ahead(make_source(), 0))
    assert len(whole) == 40
    assert whole == [make_source()[k] for k in range(40)]
    assert list(read_ahead(make_source(), 17)) == whole[17:]
