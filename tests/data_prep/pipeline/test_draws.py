"""Tests of data_prep/pipeline/draws.py."""

from data_prep.pipeline.draws import split_of


def test_a_split_is_by_name_and_near_its_fraction():
    names = [f"doc{i}" for i in range(2000)]
    dev = [name for name in names if split_of(0.1, 0, name) == "dev"]
    assert 150 < len(dev) < 250
    assert dev == [name for name in reversed(names) if split_of(0.1, 0, name) == "dev"][::-1]
    # A larger fraction keeps who is in dev.
    assert set(dev) < {name for name in names if split_of(0.2, 0, name) == "dev"}
