"""Batches are a pure function of seed and step, whole epochs, the same through Grain."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldx.data.lists import ListTable
from ldx.data.pipeline import (
    Batches,
    TrainingLists,
    num_batches,
    read_ahead,
    shuffle_blocks,
    take_turns,
)


def make_table(num_lists, types=("a",)):
    """Lists of which the number is the order key."""
    return ListTable(
        list_ids=[str(i) for i in range(num_lists)],
        query=np.arange(num_lists),
        rows=np.zeros((num_lists, 1), np.int32),
        sizes=np.ones(num_lists, np.int32),
        teacher_scores=np.zeros((num_lists, 1), np.float32),
        has_scores=np.ones(num_lists, bool),
        labels=np.full((num_lists, 1), -1, np.int32),
        query_type=np.arange(num_lists, dtype=np.int32) % len(types),
        query_types=list(types),
        order_key=np.arange(num_lists),
    )


def plan(table, numbers):
    """Stands for a plan: the source's size and the lists."""
    return len(table), sorted(int(n) for n in numbers)


def make_batches(*num_lists, batch_size=8, seed=3, num_steps=40, block_size=1, **settings):
    sources = [
        TrainingLists(f"s{i}", make_table(n, ("a", "b")), plan, **settings)
        for i, n in enumerate(num_lists)
    ]
    return Batches(
        sources, batch_size=batch_size, seed=seed, num_steps=num_steps, block_size=block_size
    )


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 5), st.sampled_from([1, 5, 64]))
def test_an_epoch_is_a_permutation_in_even_batches(num_lists, batch_size, epoch, block_size):
    batches = make_batches(num_lists, batch_size=batch_size, block_size=block_size)
    steps = batches.steps_per_epoch
    assert steps == num_batches(num_lists, batch_size)
    numbers = [batches.lists_of_step(epoch * steps + k)[1] for k in range(steps)]
    np.testing.assert_array_equal(np.sort(np.concatenate(numbers)), np.arange(num_lists))
    sizes = [len(each) for each in numbers]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ():
    drawn = [
        make_batches(50, batch_size=50, seed=seed).lists_of_step(epoch)[1].tolist()
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_reading_ahead_goes_on_from_any_step():
    whole = list(read_ahead(make_batches(50, 20), 0))
    assert len(whole) == 40
    assert whole == [make_batches(50, 20)[k] for k in range(40)]
    assert list(read_ahead(make_batches(50, 20), 17)) == whole[17:]


def test_sources_take_turns_until_each_is_used_up():
    assert take_turns([3, 1, 2]) == [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2)]
    batches = make_batches(24, 5, 16)
    plans = [batches[k] for k in range(batches.steps_per_epoch)]
    assert [size for size, _ in plans] == [24, 5, 16, 24, 16, 24]
    for size in (24, 5, 16):
        lists = [n for of, numbers in plans if of == size for n in numbers]
        assert sorted(lists) == list(range(size))


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.25])
def test_weights_say_how_often_a_list_stands_in_an_epoch(weight):
    batches = make_batches(40, weight=weight, query_type_weights={"b": 0.5})
    steps = batches.steps_per_epoch
    epochs = [
        np.concatenate([batches.lists_of_step(e * steps + k)[1] for k in range(steps)])
        for e in range(2)
    ]
    for drawn in epochs:
        times = np.bincount(drawn, minlength=40)
        assert times[0::2].sum() == round(20 * weight)
        assert times[1::2].sum() == round(10 * weight)
        assert times[0::2].max() - times[0::2].min() <= 1
    assert sorted(epochs[0]) != sorted(epochs[1])  # another part of the others each epoch


def test_blocks_keep_neighbours_together():
    rng = np.random.default_rng(0)
    keys = rng.permutation(60)
    order = shuffle_blocks(keys, 6, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(order), np.arange(60))
    blocks = keys[order].reshape(10, 6)
    steps = np.diff(blocks, axis=1)
    assert (steps % 60 == 1).all()  # neighbours; one block may go round the end
    assert (np.diff(blocks[:, 0]) != 6).any()
    again = shuffle_blocks(keys, 6, np.random.default_rng(2))
    assert order.tolist() != again.tolist()


def test_equal_keys_come_in_random_order():
    table = dataclasses.replace(make_table(12), order_key=np.zeros(12, np.int64))
    orders = [shuffle_blocks(table.order_key, 4, np.random.default_rng(s)) for s in (0, 1)]
    assert orders[0].tolist() != orders[1].tolist()
