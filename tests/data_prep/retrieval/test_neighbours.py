"""Tests of data_prep/retrieval/neighbours.py: always a permutation; neighbours are near."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from data_prep.retrieval import neighbours
from data_prep.retrieval.neighbours import neighbour_order

SIZES = (2, 9, 64, 65, 300, 3000)


def in_order(labels: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """The labels in the order of their embeddings."""
    return labels[np.argsort(neighbour_order(embeddings))]


def check_permutation(embeddings: np.ndarray) -> np.ndarray:
    places = neighbour_order(embeddings)
    assert places.dtype == np.int64
    np.testing.assert_array_equal(np.sort(places), np.arange(len(embeddings)))
    return places


@given(
    st_numpy.arrays(
        st.sampled_from([np.float16, np.float32]),
        st.tuples(st.integers(0, 200), st.integers(1, 4)),
        elements=st.floats(-100, 100, width=16),
    )
)
def test_a_permutation_of_any_rows(embeddings):
    np.testing.assert_array_equal(check_permutation(embeddings), neighbour_order(embeddings))


@given(st.integers(1, 400), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=30)
def test_a_permutation_where_most_rows_are_copies(num_rows, num_values, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(num_values, 8)).astype(np.float32)
    which = np.minimum(rng.geometric(0.7, num_rows) - 1, num_values - 1)
    check_permutation(values[which])


@pytest.mark.parametrize("num_rows", [0, 1, *SIZES])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_equal_embeddings(num_rows, value):
    places = check_permutation(np.full((num_rows, 5), value, np.float32))
    if num_rows <= neighbours.SMALL:
        np.testing.assert_array_equal(places, np.arange(num_rows))


def test_a_line_comes_out_from_end_to_end():
    rng = np.random.default_rng(0)
    for num_rows in SIZES:
        at = rng.permutation(num_rows)
        line = at[:, None] * rng.normal(size=12) + rng.normal(size=12)
        assert set(np.diff(in_order(at, line.astype(np.float32)))) in ({1}, {-1})


def test_a_circle_comes_out_in_one_round():
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(12, 2))).Q.T
    for num_rows in SIZES:
        at = rng.permutation(num_rows)
        angle = 2 * np.pi * at / num_rows
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ plane
        steps = np.diff(in_order(at, circle.astype(np.float32))) % num_rows
        assert set(steps) <= {1, num_rows - 1}


@pytest.mark.parametrize(("num_clusters", "size"), [(2, 5), (5, 40), (40, 30), (100, 100)])
def test_planted_clusters_stay_together(num_clusters, size):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(num_clusters), size))
    noise = 0.05 * rng.normal(size=(len(labels), 32))
    embeddings = rng.normal(size=(num_clusters, 32))[labels] + noise
    runs = 1 + np.count_nonzero(np.diff(in_order(labels, embeddings.astype(np.float32))))
    assert num_clusters <= runs <= 1.05 * num_clusters + 1


def test_clusters_along_a_line_come_in_the_order_of_the_line():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(30), 100))
    embeddings = 0.1 * rng.normal(size=(len(labels), 16))
    embeddings[:, 3] += labels
    assert len(set(np.sign(np.diff(in_order(labels, embeddings))))) == 2  # 0 and one direction


def test_a_file_and_its_content_are_ordered_alike(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float16)
    np.save(tmp_path / "embeddings.npy", embeddings)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    places = neighbour_order(mapped)
    np.testing.assert_array_equal(places, neighbour_order(embeddings))
    np.testing.assert_array_equal(places, neighbour_order(embeddings.astype(np.float32)))


def test_more_passages_than_are_read_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(20), 50))
    embeddings = (rng.normal(size=(20, 8))[labels]).astype(np.float32)
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", 64)
    check_permutation(embeddings)
    assert np.count_nonzero(np.diff(in_order(labels, embeddings))) == 19
