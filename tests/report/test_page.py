"""The page of a tiny real run: hostile texts, its sections, failures, and a real browser."""

import json
from types import SimpleNamespace

from ldx.report import final, plots
from ldx.report import page as page_module
from ldx.report.html import Html
from ldx.report.html import page as html_page
from tests.browser import browse, look_at, needs_browser
from tests.report.hostile_run import HOSTILE, SECTIONS, Page, copy_without, make, read_csv

TAGS = set(
    """html head meta title style body main div h1 h2 h3 h4 p strong nav ul li a section table
    caption thead tbody tr th td span details summary pre figure figcaption dl dt dd bdi code
    svg defs g path use clippath rect text image""".split()  # noqa: SIM905
)


def test_hostile_texts_stay_texts(finished):
    page = Page(finished / "report" / "index.html")
    assert {tag for tag, _ in page.tags} <= TAGS
    assert page.text.count(HOSTILE) > 20
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        link = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert link.startswith(("#", "data:image/png;base64,"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_section_has_its_content(finished):
    page = Page(finished / "report" / "index.html")
    assert [title for title in page.titles if title] == SECTIONS
    assert "could not be" not in page.text
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 6
    assert "3 (33%)" in page.text  # the yield of a filter
    judges = "queries: 6 human judged by people and a language model, 6 synthetic"
    assert f"Dev nDCG@10 is of {judges}." in page.text
    assert f"12 {judges}, step" in page.text  # the verdict
    assert f"$x_1$ {HOSTILE}" in page.text
    won = read_csv(finished / "report" / "per_query.csv")
    differences = [float(row["trained"]) - float(row["base"]) for row in won]
    shown = [f"{x:+.4f}" for x in sorted(differences) if x]
    assert shown
    assert shown[0] in page.text
    assert shown[-1] in page.text


def broken(*_, **__):
    raise RuntimeError(f"no plot today {HOSTILE}")


def test_what_fails_costs_itself_alone(finished, tmp_path, monkeypatch):
    workdir = copy_without(finished, tmp_path, "report.txt", "results.json", "report/index.html")
    monkeypatch.setattr(plots, "sorted_differences", broken)
    monkeypatch.setattr(plots, "curves", broken)
    page = Page(make(workdir))
    assert [title for title in page.titles if title] == SECTIONS
    assert page.text.count(f"This could not be made: RuntimeError: no plot today {HOSTILE}") == 2
    for name in ("index.html", "dev_scores.npz"):
        (workdir / "report" / name).unlink()
    monkeypatch.setattr(page_module, "make_dev_scores", broken)
    page = Page(make(workdir))
    assert page.text.count(f"could not be scored: no plot today {HOSTILE}") == 3
    (workdir / "report" / "index.html").unlink()
    monkeypatch.setattr(final, "make_page", broken)
    assert not make(workdir).exists()
    assert (workdir / "report.txt").is_file()
    assert (workdir / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_several_sources_have_a_part_each(finished, tmp_path):
    workdir = copy_without(finished, tmp_path, "report.txt", "results.json", "report/index.html")
    config = json.loads((workdir / "config.json").read_text())
    source = {"records": config["data"].pop("records"), "root": config["data"].pop("root")}
    sources = {"a<b>": source, "other": source | {"query_prompt": "the "}}
    config["data"] |= {"records": "", "root": "", "sources": sources}
    page = Page(make(workdir, config))
    results = json.loads((workdir / "results.json").read_text())
    single = json.loads((finished / "results.json").read_text())
    assert set(results) == {f"{s}/{x}" for s in sources for x in ("base", "trained")}
    assert results["a<b>/trained"] == single["trained"]
    assert results["other/trained"] != single["trained"]
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 2 + 4 * 2
    assert "a<b> test: 20 queries, 40 passages" in page.text
    rows = read_csv(workdir / "report" / "dev_lists.csv")
    assert {row["source"] for row in rows} == set(sources)


def test_without_judgments_and_with_a_verdict(finished, tmp_path):
    workdir = copy_without(finished, tmp_path, "report.txt", "results.json", "report/index.html")
    verdict = SimpleNamespace(
        status="not distinguishable", text=f"dev says so {HOSTILE}", advice=(f"try {HOSTILE}",)
    )
    page = Page(make(workdir, judged=False, verdict=verdict))
    assert f"dev says so {HOSTILE}" in page.text
    assert f"Advice: try {HOSTILE}" in page.text
    assert (workdir / "report.txt").read_text().endswith(f"Advice: try {HOSTILE}\n")
    assert "verdict not-distinguishable" in [a.get("class") for _, a in page.tags]
    assert page.text.count("No human judgments were given") == 3
    assert [title for title in page.titles if title] == SECTIONS
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 5


@needs_browser
def test_in_a_browser(finished, tmp_path):
    dom_path = look_at(finished / "report" / "index.html", tmp_path)
    loading = tmp_path / "loading.html"
    loading.write_text(html_page("x", Html('<img src="x.png">'), []))
    assert "CONSOLE" in browse(loading, tmp_path, "--dump-dom").stderr
    dom = Page(dom_path)
    assert [title for title in dom.titles if title] == SECTIONS
    assert {tag for tag, _ in dom.tags} <= TAGS
