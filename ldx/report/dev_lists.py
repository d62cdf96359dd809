"""Sections of the report on the dev lists: by query type, student against teacher, entropies.

Shapes: N dev lists, L list entries.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ldx.eval.list_stats import (
    divergence,
    entropy,
    kendall_tau,
    ndcg_against_best,
    same_best,
)
from ldx.eval.metrics import METRIC, Comparison, compare
from ldx.eval.report import format_p_value
from ldx.losses.listwise import LISTWISE_KL
from ldx.report import plots
from ldx.report.common import change_cell, mean_or_dash
from ldx.report.dev_scores import SYSTEMS, DevScores
from ldx.report.html import Html, figure, join, note, subsection, table

ALL = "all"
MEASURES = (METRIC, "listwise_kl", "teacher_ndcg", "kendall_tau", "same_best", "entropy")
AGREEMENT = {
    "teacher_ndcg": f"{METRIC} against the teacher's ten best",
    "kendall_tau": "Kendall's tau-b",
    "same_best": "the same entry first",
}
NO_TEACHER = "The dev lists have no teacher scores."


class Temperatures(NamedTuple):
    """The temperatures of listwise_kl."""

    student: float
    teacher: float


@dataclass(frozen=True, eq=False)
class DevLists:
    """The measures of every dev list of a source.

    Attributes:
      title: what the page calls the source.
      dev: the lists and the student's scores.
      temperatures: those of the loss.
      by_system: float64 [N] by system, then by name, the `MEASURES`; NaN where a list has none,
        such as one without teacher scores.
      teacher_entropy: float64 [N], likewise.
    """

    title: str
    dev: DevScores
    temperatures: Temperatures
    by_system: dict[str, dict[str, np.ndarray]]
    teacher_entropy: np.ndarray

    def groups(self) -> dict[str, np.ndarray]:
        """Which lists are of a query type, bool [N] by type, and all where there are several."""
        table = self.dev.table
        groups = {name: table.query_type == number for number, name in enumerate(table.query_types)}
        return groups if len(groups) == 1 else groups | {ALL: np.ones(len(table), bool)}


def temperatures(loss: Mapping[str, Any]) -> Temperatures:
    """The temperatures of the config's listwise_kl, which have defaults."""
    settings = LISTWISE_KL.with_defaults(loss.get(LISTWISE_KL.name) or {})
    return Temperatures(*(float(settings[f"{name}_temperature"]) for name in Temperatures._fields))


def measure(title: str, dev: DevScores, loss: Mapping[str, Any]) -> DevLists:
    """The measures of every list of a source.

    Args:
      title: what the page calls the source.
      dev: its lists and the student's scores.
      loss: the section of the config.
    """
    of_loss = temperatures(loss)
    table, where = dev.table, dev.table.where
    has_teacher = table.has_scores
    where_teacher = where & has_teacher[:, None]
    by_system = {}
    for system in SYSTEMS:
        scores = dev.scores[system]
        by_system[system] = {
            METRIC: dev.ndcg[system],
            "listwise_kl": divergence(
                scores, table.teacher_scores, where_teacher,
                student_temperature=of_loss.student, teacher_temperature=of_loss.teacher,
            ),
            "teacher_ndcg": ndcg_against_best(scores, table.teacher_scores, where_teacher),
            "kendall_tau": kendall_tau(scores, table.teacher_scores, where_teacher),
            "same_best": same_best(scores, table.teacher_scores, where_teacher),
            "entropy": entropy(scores, where, of_loss.student),
        }  # fmt: skip
    teacher_entropy = entropy(table.teacher_scores, where_teacher, of_loss.teacher)
    return DevLists(title, dev, of_loss, by_system, teacher_entropy)


def comparison(lists: DevLists, key: str, group: np.ndarray) -> Comparison:
    """Trained against base by a measure, over the lists of a group that have it."""
    base, trained = (lists.by_system[system][key] for system in SYSTEMS)
    numbers = np.flatnonzero(group & np.isfinite(base) & np.isfinite(trained))
    return compare({str(i): trained[i] for i in numbers}, {str(i): base[i] for i in numbers})


def summary(lists: DevLists) -> dict[str, Any]:
    """Means by query type, for the report's JSON; None where no list has the measure."""
    result = {}
    for name, group in lists.groups().items():
        values: dict[str, Any] = {"num_lists": int(group.sum())}
        for system in SYSTEMS:
            values[system] = {k: _mean(v[group]) for k, v in lists.by_system[system].items()}
        values["teacher_entropy"] = _mean(lists.teacher_entropy[group])
        result[name] = values
    return result


def _mean(values: np.ndarray) -> float | None:
    finite = _finite(values)
    return float(finite.mean()) if len(finite) else None


def types_section(sources: Sequence[DevLists]) -> Html:
    """Dev nDCG@10 and divergence by query type."""
    parts = []
    for number, lists in enumerate(sources):
        changes = {name: comparison(lists, METRIC, g) for name, g in lists.groups().items()}
        means = {
            name: plots.Pair(*(float(lists.by_system[s][METRIC][group].mean()) for s in SYSTEMS))
            for name, group in lists.groups().items()
        }
        rows = [
            [name, *_type_cells(lists, group, changes[name])]
            for name, group in lists.groups().items()
        ]
        head = ["query type", "lists", f"{METRIC}, base", "trained", "difference", "p"]
        head += ["KL, base", "trained"]
        image = plots.to_svg(
            functools.partial(plots.change_by_group, means, f"dev {METRIC}"),
            f"types{number}",
            f"Dev {METRIC} by query type, base and trained; the table has the numbers.",
        )
        parts.append(subsection(_shown(lists, sources), figure(image, ""), table(head, rows)))
    about = note(
        "Each query is searched among the passages of all dev lists of its source. The first entry "
        "of its list is relevant, and so are passages that people graded so. The dev "
        f"{METRIC} of the verdict and the curves may be another number: there the pool is "
        "filled up to config.train.dev_pool passages with others of the corpus, here it is the "
        "passages of the dev lists alone. Intervals and p (paired randomisation) "
        "are over lists. KL is the divergence of the student's list from the teacher's, at the "
        "temperatures of the loss."
    )
    return join([*parts, about])


def _type_cells(lists: DevLists, group: np.ndarray, change: Comparison) -> list[object]:
    base, trained = (lists.by_system[system] for system in SYSTEMS)
    cells: list[object] = [int(group.sum())]
    cells += [mean_or_dash(_nan_mean(values[METRIC][group])) for values in (base, trained)]
    cells += _change_cells(change)
    cells += [mean_or_dash(_nan_mean(values["listwise_kl"][group])) for values in (base, trained)]
    return cells


def _change_cells(change: Comparison) -> list[object]:
    """The difference with its interval, and p."""
    return [change_cell(change), format_p_value(change.p_value)]


def _nan_mean(values: np.ndarray) -> float:
    mean = _mean(values)
    return float("nan") if mean is None else mean


def scores_section(sources: Sequence[DevLists]) -> Html:
    """The scores of student and teacher, and how far they agree on the order of lists."""
    parts = []
    for number, lists in enumerate(sources):
        table_, where = lists.dev.table, lists.dev.table.where & lists.dev.table.has_scores[:, None]
        if not where.any():
            parts.append(subsection(_shown(lists, sources), note(NO_TEACHER)))
            continue
        caption = (
            f"{int(where.sum())} entries of {int(where.any(axis=1).sum())} lists, by the scores of "
            "student and teacher."
        )
        students = {system: lists.dev.scores[system][where] for system in SYSTEMS}
        teacher = table_.teacher_scores[where]
        image = plots.to_svg(
            functools.partial(plots.score_density, teacher, students),
            f"scores{number}",
            caption,
        )
        parts.append(subsection(_shown(lists, sources), _agreement(lists), figure(image, caption)))
    about = note(
        "How far student and teacher agree on the order of a list's entries, mean over lists. For "
        f"{METRIC} the teacher's ten best of the list have grades 10 to 1; short lists are near 1 "
        "in any order. Intervals and p (paired randomisation) are over lists."
    )
    return join([*parts, about])


def _agreement(lists: DevLists) -> Html:
    """How far student and teacher agree, before and after training."""
    everything = np.ones(len(lists.dev.table), bool)
    rows = []
    for key, name in AGREEMENT.items():
        change = comparison(lists, key, everything)
        means = [mean_or_dash(_nan_mean(lists.by_system[system][key])) for system in SYSTEMS]
        rows.append([name, *means, *_change_cells(change)])
    return table(["of student and teacher", "base", "trained", "difference", "p"], rows)


def entropy_section(sources: Sequence[DevLists]) -> Html:
    """Entropies of the teacher's targets, and of the student's lists before and after training."""
    parts = []
    for number, lists in enumerate(sources):
        students = {s: _finite(lists.by_system[s]["entropy"]) for s in SYSTEMS}
        teacher = _finite(lists.teacher_entropy)
        if not len(students[SYSTEMS[0]]):
            parts.append(subsection(_shown(lists, sources), note("No dev list has two entries.")))
            continue
        medians = ", ".join(f"{s} {np.median(v):.2f}" for s, v in students.items())
        caption = f"Median: {medians} at temperature {lists.temperatures.student:g}"
        if len(teacher):
            caption += f"; teacher {np.median(teacher):.2f} at {lists.temperatures.teacher:g}"
        image = plots.to_svg(
            functools.partial(plots.entropies, teacher, students),
            f"entropy{number}",
            caption,
        )
        about = f"{caption}. 1: all entries alike, nothing to learn; 0: one entry has it all."
        parts.append(subsection(_shown(lists, sources), figure(image, about)))
    return join(parts)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _shown(lists: DevLists, sources: Sequence[DevLists]) -> str:
    """The title of a source, where there are several."""
    return lists.title if len(sources) > 1 else ""
