"""What the report's sections share: how numbers and texts are shown, and sections that fail."""

from collections.abc import Callable, Sequence

from absl import logging

from ldx.eval.metrics import Comparison
from ldx.report.html import Html, Section, element, join, note

REPORT_FOLDER = "report"  # of a run
PAGE_NAME = "index.html"


class NoData(Exception):
    """Nothing can be shown; the message says why, in a sentence for the page."""


def section_or_note(title: str, build: Callable[[], Html]) -> Section:
    """A section of the page, or, where it cannot be made, a line that says why; never an error."""
    try:
        return Section(title, build())
    except NoData as reason:
        return Section(title, note(reason))
    except Exception as error:  # a plot that fails must not cost the numbers
        message = f"{type(error).__name__}: {error}"
        logging.warning("the report's section %r could not be made: %s", title, message)
        return Section(title, note(f"This could not be made: {message}"))


def signed(value: float) -> str:
    """A difference with its sign and four decimals."""
    return f"{value:+.4f}"


def interval(ends: Sequence[float], sign: str = "") -> str:
    """An interval by its ends, with four decimals."""
    low, high = ends
    return f"[{low:{sign}.4f}, {high:{sign}.4f}]"


def change_cell(change: Comparison) -> Html:
    """A difference with its interval, as the cell of a table."""
    ends = element("span", interval((change.low, change.high), "+"), class_="interval")
    return join([signed(change.difference), ends])


def mean_or_dash(value: float) -> str:
    """A mean with three decimals; a dash for NaN."""
    return "–" if value != value else f"{value:.3f}"


def cut(text: str, num_chars: int) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text[: 20 * num_chars].split())
    return line if len(line) <= num_chars else line[:num_chars].rstrip() + " …"
