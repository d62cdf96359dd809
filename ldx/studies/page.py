"""The page of a study: what was asked, the gains as a picture, and all tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldx.common.files import atomic_write
from ldx.report import html
from ldx.report.plots import intervals, to_svg
from ldx.studies.results import axis_columns
from ldx.studies.tables import SETTINGS_NOTE, change, label, settings_told, tables


def write_page(path: Path, study: Mapping[str, Any]) -> None:
    """Write index.html, which needs nothing beside it; it leads to the pages of the cells."""
    sections = []
    if study["configurations"]:
        sections.append(html.Section("Gains", _figures(study)))
    for table in tables(study):
        rows: list[list[object]] = [list(row) for row in table.rows]
        for row, link in zip(rows, table.links, strict=False):
            row[0] = html.element("a", row[0], href=link)
        body = html.table(table.head, rows, num_text_columns=table.num_text_columns)
        sections.append(html.Section(table.title, html.join([html.note(table.note), body])))
    if study["failed"]:
        failed = html.table(["job", "why"], study["failed"].items(), num_text_columns=2)
        sections.append(html.Section("Not finished", failed))
    data = html.folded_json("everything, as in study.json", study)
    sections.append(html.Section("Data", data))
    lead = [html.paragraph(study["question"])]
    if study["caveat"]:
        lead.append(html.note(study["caveat"]))
    lead += [html.note(SETTINGS_NOTE), html.facts(settings_told(study))]
    with atomic_write(path) as file:
        file.write(html.page(f"Study: {study['name']}", html.join(lead), sections))


def _figures(study: Mapping[str, Any]) -> html.Html:
    """Gains of all configurations, and differences from the baseline where there are some."""
    made = [
        ("gains", study["configurations"], "gain", f"gain in {study['metric']} over the base model")
    ]
    if study["comparisons"]:
        baseline = ", ".join(study["baseline"].values())
        text = f"difference in {study['metric']} from {baseline}"
        made.append(("differences", study["comparisons"], "difference", text))
    axes = axis_columns(study)
    figures = []
    for name, rows, key, text in made:
        labels = [label(row, axes) for row in rows]
        described = "; ".join(
            f"{each} {change(row, key)}" for each, row in zip(labels, rows, strict=True)
        )

        def make(rows: Sequence[Mapping[str, Any]] = rows, key: str = key, text: str = text) -> Any:
            return intervals(rows, key, [label(row, axes) for row in rows], text)

        picture = to_svg(make, name, f"{text}: {described}")
        caption = f"{text}, with its 95% interval; filled where p < .05 after Holm's correction"
        figures.append(html.figure(picture, caption[0].upper() + caption[1:]))
    return html.join(figures)
