"""The page of a study, opened in a real browser."""

import re

from ldx.studies.page import write_page
from tests.browser import look_at, needs_browser
from tests.studies.test_gains import make_summary


@needs_browser
def test_in_a_browser(tmp_path):
    write_page(tmp_path / "index.html", make_summary(["two--nce--seed1"]))
    dom = look_at(tmp_path / "index.html", tmp_path).read_text()
    assert re.findall("<h2>(.*?)</h2>", dom) == [
        "Gains",
        "Trained against untrained",
        "By value",
        "Against the baseline",
        "By query type",
        "Cells",
        "Not finished",
        "Data",
    ]
    assert dom.count("<svg") == 2
    assert dom.count("p, t-test") == 4
