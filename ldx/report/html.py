"""Parts of a self-contained HTML page: text, tables, figures, sections, and the whole page.

Whatever is not `Html` is text of unknown origin and is escaped. A page loads nothing, runs no
script, and its Content-Security-Policy forbids both.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CSS = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Markup; any other text is escaped where it is put into a page."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of a page, listed in its contents."""

    title: str
    body: Html

    @property
    def anchor(self) -> str:
        """The id that links lead to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def escape(value: object) -> Html:
    """Any value as text of the page; `Html` as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[object]) -> Html:
    """Parts, one after the other; what is not `Html` is escaped."""
    return Html("\n".join(escape(part) for part in parts))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """`<tag attribute="...">content</tag>`; `class_` stands for class, None leaves one out."""
    pairs = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(part) for part in content)
    return Html(f"<{tag}{pairs}>{inside}</{tag}>")


def paragraph(*content: object, class_: str | None = None) -> Html:
    """A paragraph of text."""
    return element("p", *content, class_=class_)


def note(*content: object) -> Html:
    """A paragraph in small print, which explains what is shown or why something is not."""
    return paragraph(*content, class_="note")


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    num_text_columns: int = 1,
) -> Html:
    """A table, which scrolls sideways where the page is too narrow.

    Args:
      head: the names of the columns.
      rows: cells, as many as columns; the first is the row's head.
      caption: a line above the table.
      num_text_columns: how many of the first columns are text, aligned to the left; the others
        hold numbers.
    """

    def kind(column: int) -> str | None:
        return None if column < num_text_columns else "number"

    heads = (element("th", x, scope="col", class_=kind(i)) for i, x in enumerate(head))
    lines = []
    for row in rows:
        first, *others = row
        cells = [element("th", first, scope="row", class_=kind(0))]
        cells += [element("td", x, class_=kind(i)) for i, x in enumerate(others, 1)]
        lines.append(element("tr", *cells))
    parts = [element("caption", caption)] if caption else []
    parts += [element("thead", element("tr", *heads)), element("tbody", *lines)]
    label = caption or "table"
    return element(
        "div", element("table", *parts), class_="scroll", tabindex=0, role="region",
        aria_label=label,
    )  # fmt: skip


def figure(image: Html, caption: object) -> Html:
    """A picture (inline SVG, or an img with a data: URL) with its caption."""
    return element("figure", image, element("figcaption", caption))


def details(summary: object, *content: object, is_open: bool = False) -> Html:
    """Content that is folded away under a line."""
    parts = (element("summary", summary), *content)
    return element("details", *parts, open="" if is_open else None)


def folded_json(summary: object, value: Any) -> Html:
    """A value as JSON, folded away."""
    return details(summary, element("pre", json.dumps(value, indent=2, ensure_ascii=False)))


def subsection(title: object, *content: object) -> Html:
    """A part of a section, with a title unless that is ""."""
    return join([element("h3", title) if title else "", *content])


def facts(values: Mapping[str, object]) -> Html:
    """Names with their values, a line each."""
    return element("dl", *(join([element("dt", k), element("dd", v)]) for k, v in values.items()))


def page(title: str, lead: Html, sections: Sequence[Section]) -> Html:
    """A whole page: title, lead, contents, and the sections."""
    links = (
        element("li", element("a", section.title, href=f"#{section.anchor}"))
        for section in sections
    )
    body = [
        element("h1", title),
        lead,
        element("nav", element("ul", *links), aria_label="Contents"),
        *(
            element("section", element("h2", s.title), s.body, id=s.anchor)
            for s in sections
        ),
    ]  # fmt: skip
    return Html(
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{element("title", title)}
<style>
{CSS.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{join(body)}
</main>
</body>
</html>
"""
    )
