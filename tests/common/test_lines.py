"""Lines of a text file: what is skipped, and what is bad."""

import gzip
from pathlib import Path

import pytest

from ldx.common.errors import UserError
from ldx.common.lines import Lines


@pytest.mark.parametrize("suffix", [".txt", ".gz"])
def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = "\ufeffone\n\n \ntwo \ufeff\n".encode()
    path.write_bytes(gzip.compress(data) if suffix == ".gz" else data)
    assert list(Lines(path)) == [(1, "one\n"), (4, "two \ufeff\n")]


def test_bad_lines_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ncaf\xe9\nt\0wo\nthree\n")
    lines = Lines(path)
    assert [number for number, _ in lines] == [1, 4]
    lines.bad(4, "no number")
    with pytest.raises(UserError) as caught:
        lines.finish("a number")
    text = str(caught.value)
    assert f"{path} has 3 bad line(s)" in text
    assert f"{path}:2: not UTF-8" in text
    assert f"{path}:3: a NUL character" in text
    assert f"{path}:4: no number\nwanted: a number" in text
