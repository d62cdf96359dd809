"""Parts of a page: what is text is escaped, and what is written parses as what was meant."""

import html.parser

import pytest

from ldx.report import html as parts
from ldx.report.html import Html, Section, element, join, page, table

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>&amp;"""


class Reader(html.parser.HTMLParser):
    """Tags with attributes, and the text between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda text: element("p", text, title=text),
        lambda text: table([text, text], [[text, text]], caption=text),
        lambda text: parts.figure(Html("<svg></svg>"), text),
        lambda text: parts.details(text, text),
        lambda text: parts.folded_json(text, {text: [text]}),
        lambda text: parts.subsection(text, text),
        lambda text: parts.facts({text: text}),
        lambda text: parts.note(text),
        lambda text: join([text, text]),
        lambda text: page(text, join([text]), [Section(text, join([text]))]),
    ],
)
def test_what_is_text_stays_text(make):
    made = make(HOSTILE)
    assert isinstance(made, Html)
    expected, got = Reader(make("harmless")), Reader(made)
    assert [tag for tag, _ in got.tags] == [tag for tag, _ in expected.tags]
    assert [sorted(a) for _, a in got.tags] == [sorted(a) for _, a in expected.tags]
    assert "alert(1)" in "".join(got.texts)


def test_a_table_is_one():
    made = Reader(table(["a", "b"], [["x", 1.5], ["y", Html("<b>2</b>")]], caption="c"))
    cells = [(tag, a.get("scope"), a.get("class")) for tag, a in made.tags if tag in ("th", "td")]
    assert cells[:2] == [("th", "col", None), ("th", "col", "number")]
    assert cells[2:4] == [("th", "row", None), ("td", None, "number")]
    assert "b" in [tag for tag, _ in made.tags]
    assert made.texts == ["c", "a", "b", "x", "1.5", "y", "2"]


def test_a_page_may_load_nothing_and_links_to_its_sections():
    made = Reader(page("T", Html(""), [Section("The first", Html("")), Section("2", Html(""))]))
    policies = [a["content"] for t, a in made.tags if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    links = [a["href"] for tag, a in made.tags if tag == "a"]
    assert (
        links == [f"#{a['id']}" for tag, a in made.tags if tag == "section"] == ["#the-first", "#2"]
    )
    assert not [a for _, a in made.tags if "src" in a]
