"""Tests of tests/benchmarks/overlap.py."""

import numpy as np

from tests.benchmarks.overlap import compare, distinct, order_keys, print_cases, thinned


def make_lists() -> tuple[np.ndarray, np.ndarray]:
    """Forty passages at four places; a list for each, of all passages of its place."""
    place = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 10))
    rows = [[row, *np.setdiff1d(np.flatnonzero(place == place[row]), row)] for row in range(40)]
    return np.array(rows, np.int32), np.eye(4, dtype=np.float32)[place]


def test_thinned_lists_are_the_first_of_each_passage_in_their_order():
    rows = np.array([[3, 0], [1, 2], [3, 1], [3, 2], [0, 1]], np.int32)
    assert thinned(rows, 1).tolist() == [[3, 0], [1, 2], [0, 1]]
    assert thinned(rows, 2).tolist() == [[3, 0], [1, 2], [3, 1], [0, 1]]
    assert thinned(rows, 9).tolist() == rows.tolist()


def test_batches_of_neighbours_have_the_passages_of_few_places():
    rows, embeddings = make_lists()
    keys = order_keys(rows, embeddings)
    assert distinct(rows, np.zeros(40), 40, 1) == 40
    for name in ("neighbours", "list means"):
        # Ten lists that stand together begin anywhere: they are of one place or of two.
        assert distinct(rows, keys[name], 10, 10) <= 20
    assert distinct(rows, keys["row"], 10, 10) > 30


def test_cases_and_their_table(capsys):
    rows, embeddings = make_lists()
    cases = compare("toy", rows, order_keys(rows, embeddings), 10)
    for case in cases["neighbours"]:
        assert case.ratio == case.reference / case.ours >= 1
    print_cases({10: cases})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "batch/block",
        "random",
        "row",
        "neighbours",
        "list",
    ]
