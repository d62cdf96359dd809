"""Progress bars where there is no terminal: whole lines, seldom, with speed and time left."""

import re
import time

import pytest

from ldx.common import progress
from ldx.common.progress import progress_bar


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture) -> None:
    for _ in progress_bar(range(10), desc="texts"):
        pass
    assert capsys.readouterr().err == ""


def test_lines_are_whole_and_seldom(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.2)
    # Half of the work was done before.
    with progress_bar(total=60, initial=30, desc="texts", unit=" docs", smoothing=0) as bar:
        for _ in range(30):
            time.sleep(0.02)
            bar.update(1)
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert "\r" not in err
    lines = err.splitlines()
    assert 1 <= len(lines) < 30
    for line in lines:
        found = re.fullmatch(r"texts: +\d+% (\d+)/60 \[00:\d\d<00:\d\d, +([\d.]+) docs/s\]", line)
        assert found, line
        assert int(found[1]) > 30
        assert float(found[2]) < 50  # those of this run alone
