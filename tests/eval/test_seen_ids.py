"""Ids that were seen are known as in a set, in 16 bytes each."""

import hypothesis.strategies as st
from hypothesis import given

from ldx.eval.seen_ids import SeenIds


@given(st.lists(st.lists(st.text("ab\0é", max_size=3), max_size=8), max_size=12))
def test_seen_ids_equal_a_set(batches: list[list[str]]) -> None:
    seen, wanted = SeenIds(), set()
    seen.LEAST_CAP = 4
    for ids in batches:
        answer = []
        for one in ids:
            answer.append(one not in wanted)
            wanted.add(one)
        assert seen.add(ids).tolist() == answer
    assert len(seen) == len(wanted)


def test_seen_ids_take_16_bytes_each_in_few_arrays() -> None:
    seen = SeenIds()
    seen.LEAST_CAP = 2000
    for start in range(0, 40_000, 100):
        assert seen.add([f"doc{i}" for i in range(start, start + 100)]).all()
    assert sum(level.nbytes for level in seen._levels) == 16 * 40_000
    assert len(seen._levels) < 40
    assert not seen.add([f"doc{i}" for i in range(0, 40_000, 7)]).any()
