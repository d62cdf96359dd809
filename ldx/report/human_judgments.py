"""Sections of the report on human judgments: the tables, and the queries that changed most."""

import functools
from collections.abc import Sequence

import numpy as np

from ldx.eval.metrics import METRIC, METRICS, rank
from ldx.eval.report import BASE, TRAINED, MetricResult, Outcome, format_p_value
from ldx.report import plots
from ldx.report.common import NoData, change_cell, cut, interval, signed
from ldx.report.html import (
    Html,
    details,
    element,
    escape,
    figure,
    join,
    note,
    paragraph,
    subsection,
    table,
)

NUM_CHANGES = 5  # the queries shown that won most, and as many that lost most
NUM_PASSAGES = 5  # shown of each query and model
PASSAGE_CHARS = 240
QUERY_CHARS = 200
NO_JUDGMENTS = "No human judgments were given, so whether it helps people is not known."


def sentence(outcome: Outcome) -> str:
    """The trained model against the base model on a collection, in one sentence."""
    trained = outcome.results[TRAINED][METRIC]
    change = trained.change
    assert change is not None, "the trained model is compared with the base"
    return (
        f"{outcome.collection} {outcome.dataset.split}: {METRIC} {trained.value:.4f}, base model "
        f"{trained.baseline:.4f}; difference {signed(change.difference)} "
        f"{interval((change.low, change.high), '+')}, p = {format_p_value(change.p_value)} "
        f"(randomisation), {format_p_value(change.t_test_p_value)} (t-test); "
        f"{len(outcome.dataset.qrels)} queries"
    )


def table_section(outcomes: Sequence[Outcome]) -> Html:
    """Metrics of all systems, and their differences to the base model, tested."""
    if not outcomes:
        raise NoData(NO_JUDGMENTS)
    parts: list[Html] = []
    for outcome in outcomes:
        others = [m for m in METRICS if m != METRIC]
        parts += [
            subsection(outcome.title),
            _metrics_table(outcome),
            _differences_table(outcome, METRIC),
            details(
                f"Differences in {', '.join(others)}",
                *(_differences_table(outcome, metric) for metric in others),
            ),
        ]
    about = note(
        "Intervals are 95% percentile bootstrap intervals over queries. Differences are paired, "
        "query by query; p is two-sided, of the paired randomisation (sign-flip) test and of the "
        "paired t-test. Both say how sure the result is over queries, and nothing of other "
        "training seeds."
    )
    return join([*parts, about])


def _metrics_table(outcome: Outcome) -> Html:
    rows = [
        [system, *(_value_cell(results[metric]) for metric in METRICS)]
        for system, results in outcome.results.items()
    ]
    return table(["system", *METRICS], rows, caption="Metrics [95% interval]")


def _value_cell(result: MetricResult) -> Html:
    ends = element("span", interval((result.low, result.high)), class_="interval")
    return join([f"{result.value:.4f}", ends])


def _differences_table(outcome: Outcome, metric: str) -> Html:
    rows = []
    for system, results in outcome.results.items():
        change = results[metric].change
        if change is not None:
            tests = format_p_value(change.p_value), format_p_value(change.t_test_p_value)
            counts = change.wins, change.losses, change.ties
            rows.append([system, change_cell(change), *tests, *counts])
    head = ["system", "difference", "p, randomisation", "p, t-test", "wins", "losses", "ties"]
    return table(head, rows, caption=f"{metric} against the base model")


def changes_section(outcomes: Sequence[Outcome], relevance_level: int) -> Html:
    """The gain or loss of every query, and the passages found for those that changed most."""
    if not outcomes:
        raise NoData(NO_JUDGMENTS)
    parts = []
    for number, outcome in enumerate(outcomes):
        parts.append(subsection(outcome.title))
        differences = query_differences(outcome)
        values = np.array(list(differences.values()))
        if not values.any():
            parts.append(note(f"No query's {METRIC} changed."))
            continue
        wins, losses = int((values > 0).sum()), int((values < 0).sum())
        caption = (
            f"{wins} queries won, {losses} lost, {len(values) - wins - losses} did not change."
        )
        image = plots.to_svg(
            functools.partial(plots.sorted_differences, values, METRIC),
            f"changes{number}",
            f"Differences in {METRIC}, sorted. {caption}",
        )
        parts.append(figure(image, caption))
        ordered = sorted(differences, key=lambda query: -differences[query])
        up = [query for query in ordered[:NUM_CHANGES] if differences[query] > 0]
        down = [query for query in ordered[: -NUM_CHANGES - 1 : -1] if differences[query] < 0]
        texts = _Passages(outcome, relevance_level)
        for title, queries in (("Won most", up), ("Lost most", down)):
            if queries:
                parts.append(element("h4", title))
            parts += [
                _change(outcome, query, texts, is_open=i == 0) for i, query in enumerate(queries)
            ]
    return join(parts)


def query_differences(outcome: Outcome) -> dict[str, float]:
    """The trained model's metric less the base model's, by query."""
    base, trained = (outcome.scores[system].per_query[METRIC] for system in (BASE, TRAINED))
    return {query: trained[query] - base[query] for query in base}


class _Passages:
    """Makes cells of a collection's passages."""

    def __init__(self, outcome: Outcome, relevance_level: int):
        self._corpus = outcome.dataset.corpus
        self._qrels = outcome.dataset.qrels
        self._level = relevance_level
        self._rows = {doc_id: row for row, doc_id in enumerate(self._corpus.doc_ids)}

    def cell(self, query: str, doc_id: str) -> Html:
        """A passage: its id, people's judgment, the title, and the beginning of the text."""
        row = self._rows.get(doc_id)
        title, text = (
            ("", "") if row is None else (self._corpus.titles[row], self._corpus.texts[row])
        )
        head = join(
            [
                element("code", element("bdi", cut(doc_id, PASSAGE_CHARS))),
                self._badge(query, doc_id),
            ]
        )
        parts = [element("div", head)]
        if title:
            parts.append(
                element("div", element("strong", element("bdi", cut(title, PASSAGE_CHARS))))
            )
        parts.append(element("div", element("bdi", cut(text, PASSAGE_CHARS))))
        return join(parts)

    def num_relevant(self, query: str) -> int:
        """The number of passages that people judged relevant to a query."""
        return sum(grade >= self._level for grade in self._qrels[query].values())

    def _badge(self, query: str, doc_id: str) -> Html:
        grade = self._qrels[query].get(doc_id)
        if grade is None:
            return Html("")
        if grade >= self._level:
            return element("span", f"relevant ({grade})", class_="badge")
        return element("span", f"judged {grade}", class_="badge judged")


def _change(outcome: Outcome, query: str, texts: _Passages, *, is_open: bool) -> Html:
    """A query, and the best passages of both models side by side."""
    base, trained = (outcome.scores[system].per_query[METRIC][query] for system in (BASE, TRAINED))
    summary = join([
        element("strong", signed(trained - base)),
        element("bdi", escape(cut(outcome.dataset.queries[query], QUERY_CHARS))),
        element("span", f"({METRIC} {base:.3f} → {trained:.3f})", class_="interval"),
    ])  # fmt: skip
    best = [
        [texts.cell(query, doc) for doc in rank(outcome.runs[s].get(query, {}))[:NUM_PASSAGES]]
        for s in (BASE, TRAINED)
    ]
    rows = [
        [place + 1, *(cells[place] if place < len(cells) else "" for cells in best)]
        for place in range(max(map(len, best)))
    ]
    about = f"query {query}; passages judged relevant: {texts.num_relevant(query)}"
    content = table(["", "base", "trained"], rows, num_text_columns=3)
    return element(
        "div",
        details(summary, paragraph(element("bdi", about), class_="note"), content, is_open=is_open),
        class_="changes",
    )
