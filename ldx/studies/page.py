"""The page of a study: its question, the gains as a picture, and all tables."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldx.common.files import atomic_write
from ldx.report import html
from ldx.report.plots import intervals, to_svg
from ldx.studies.results import axis_columns
from ldx.studies.tables import SETTINGS_NOTE, change, label, settings_texts, tables


def write_page(path: Path, study: Mapping[str, Any]) -> None:
    """Write index.html, a file that stands alone and links to the pages of the cells."""
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
    data = html.folded_json("All data, as in study.json", study)
    sections.append(html.Section("Data", data))
    lead = [html.paragraph(study["question"])]
    if study["caveat"]:
        lead.append(html.note(study["caveat"]))
    lead += [html.note(SETTINGS_NOTE), html.facts(settings_texts(study))]
    with atomic_write(path) as file:
        file.write(html.page(f"Study: {study['name']}", html.join(lead), sections))


def _figures(study: Mapping[str, Any]) -> html.Html:
    """Gains of all configurations, and their differences from the baseline where there is one."""
    metric, baseline = study["metric"], ", ".join(study["baseline"].values())
    gain_label = f"gain in {metric} over the base model"
    figures = [_figure("gains", study, study["configurations"], "gain", gain_label)]
    if rows := study["comparisons"]:
        difference_label = f"difference in {metric} from {baseline}"
        figures.append(_figure("differences", study, rows, "difference", difference_label))
    return html.join(figures)


def _figure(
    name: str, study: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], key: str, axis: str
) -> html.Html:
    """Points with intervals of one number of all rows; `axis` says what the number is."""
    labels = [label(row, axis_columns(study)) for row in rows]
    points = "; ".join(f"{text} {change(row, key)}" for text, row in zip(labels, rows, strict=True))
    make = functools.partial(intervals, rows, key, labels, axis)
    picture = to_svg(make, name, f"{axis}: {points}")
    caption = f"{axis}, with its 95% interval; filled where p < .05 after Holm's correction"
    return html.figure(picture, caption[0].upper() + caption[1:])
