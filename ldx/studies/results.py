"""The results of a study: cells, configurations over seeds, values of axes, and their differences.

All numbers are of human test judgments, from the runs that cells left in CELL/report, except those
named dev, which are of the dev queries that chose the step.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldx.common.errors import UserError
from ldx.eval.beir import Qrels
from ldx.eval.metrics import Comparison, compare, read_run, score_run
from ldx.eval.report import BASE, TRAINED
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import ListSet
from ldx.report.common import REPORT_FOLDER
from ldx.studies.cell_settings import settings_of_cell, shared_settings
from ldx.studies.declare import DATASET_AXIS, Cell, Study
from ldx.studies.gains import Gains, compare_gains, gain_against_base, holm, mean_over_datasets
from ldx.training.checkpoint import read_progress
from ldx.training.dev_values import read_dev_values
from ldx.training.verdict import judge


@dataclasses.dataclass(frozen=True, eq=False)
class CellResult:
    """The result of a finished cell.

    Attributes:
      cell: the cell.
      facts: its numbers, flat.
      settings: what it was run with, see `settings_of_cell`.
      gains: the metric of the trained model less that of the base model, by test query.
      dev_gains: gains in dev nDCG@10 by query type, then by dev list; empty where people's dev
        queries were searched instead.
    """

    cell: Cell
    facts: dict[str, Any]
    settings: dict[str, Any]
    gains: dict[str, float]
    dev_gains: dict[str, dict[str, float]]


def read_cell(cell: Cell, folder: Path, records: Path, qrels: Qrels, metric: str) -> CellResult:
    """The result of the training run in a folder.

    Args:
      cell: what was trained.
      folder: the workdir of the run.
      records: the training lists of the run.
      qrels: the test judgments of the collection.
      metric: what is reported, such as nDCG@10.

    Raises:
      UserError: the run left no report.
    """
    progress = read_progress(folder)
    if progress is None or not progress.finished:
        raise UserError(f"{folder} holds no finished run")
    level = cell.config["eval"]["relevance_level"]
    per_query = {}
    for system in (BASE, TRAINED):
        # A run whose best step is 0 has one model.
        name = BASE if progress.best_step == 0 else system
        run = read_run(folder / REPORT_FOLDER / f"{name}.trec")
        scores = score_run(qrels, run, metrics=(metric,), relevance_level=level)
        per_query[system] = scores.per_query[metric]
    comparison = compare(per_query[TRAINED], per_query[BASE])
    verdict = judge(folder, progress, cell.config["train"]["select_by"])
    settings = settings_of_cell(folder, records, progress.step)
    facts = {
        **cell.values,
        "seed": cell.seed,
        "best_step": progress.best_step,
        "last_step": progress.step,
        "dev_base": verdict.base,
        "dev_trained": verdict.trained,
        "dev_queries": verdict.judged_by,
        "dev_verdict": verdict.status,
        "base": statistics.fmean(per_query[BASE].values()),
        "trained": statistics.fmean(per_query[TRAINED].values()),
        **_flat(comparison),
        "num_passages": settings["passages"],
        "num_lists": settings["training lists"],
        "folder": folder.name,
    }
    gains = {q: value - per_query[BASE][q] for q, value in per_query[TRAINED].items()}
    dev_gains = _dev_gains(folder, records, progress.best_step)
    return CellResult(cell, facts, settings, gains, dev_gains)


def _flat(comparison: Comparison) -> dict[str, Any]:
    """The numbers of a comparison, flat; its difference is a gain."""
    return {
        "gain": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "p_value": comparison.p_value,
        "t_test_p_value": comparison.t_test_p_value,
        "wins": comparison.wins,
        "losses": comparison.losses,
        "ties": comparison.ties,
        "num_queries": comparison.wins + comparison.losses + comparison.ties,
    }


def _dev_gains(folder: Path, records: Path, best_step: int) -> dict[str, dict[str, float]]:
    """Gains in dev nDCG@10 from before training to the best step, by query type and dev list."""
    before, _ = read_dev_values(folder, 0)
    after, _ = read_dev_values(folder, best_step)
    gains: dict[str, dict[str, float]] = {}
    for record in ListSet(records, "dev"):
        if record.list_id in before and record.query_type != HUMAN_DEV:
            of_type = gains.setdefault(record.query_type, {})
            of_type[record.list_id] = after[record.list_id] - before[record.list_id]
    return gains


def summarize(study: Study, results: Sequence[CellResult], failed: Mapping[str, str]) -> dict:
    """Everything that the report of a study says, as plain values.

    Args:
      study: the declaration.
      results: those of the cells that finished.
      failed: why the other jobs did not, by name.
    """
    groups: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        groups.setdefault(tuple(result.cell.values.values()), []).append(result)
    gains = {names: Gains({r.cell.seed: r.gains for r in group}) for names, group in groups.items()}
    configurations = [
        {
            **group[0].cell.values,
            **_seeds(group),
            **{k: statistics.fmean(r.facts[k] for r in group) for k in ("base", "trained")},
            **_flat(gain_against_base(gains[names])),
            "spread": gains[names].spread,
        }
        for names, group in groups.items()
    ]
    return {
        "name": study.name,
        "question": study.question,
        "caveat": study.caveat,
        "settings": _settings(study, results),
        "metric": study.metric,
        "axes": {axis: list(values) for axis, values in study.axes.items()},
        "seeds": list(study.seeds),
        "baseline": dict(study.baseline),
        "cells": [result.facts for result in results],
        "configurations": _corrected(configurations),
        "values": _of_values(study, results),
        "comparisons": _corrected(_comparisons(study, groups, gains)),
        "query_types": _of_query_types(results, groups),
        "list_sources": sorted({r.cell.config["prep"]["list_source"] for r in results}),
        "failed": dict(failed),
    }


def _settings(study: Study, results: Sequence[CellResult]) -> dict[str, Any]:
    """What the study was run with, by name; [least, most] for numbers in which cells differ."""
    sample = ", ".join(f"{key} {value}" for key, value in study.sample.items() if value)
    settings = {"size": study.size, **shared_settings([result.settings for result in results])}
    settings |= {"sample": sample, "seeds": ", ".join(map(str, study.seeds))}
    return {name: value for name, value in settings.items() if value}


def _seeds(group: Sequence[CellResult]) -> dict[str, int]:
    """The number of seeds, and of those in which dev kept the base model."""
    num_base_kept = sum(result.facts["best_step"] == 0 for result in group)
    return {"num_seeds": len(group), "num_base_kept": num_base_kept}


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their p-value corrected by Holm; all rows of a table are one family."""
    corrected = holm([row["p_value"] for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)]


def _of_values(study: Study, results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """The mean gain of every value of every axis over datasets and seeds, datasets alike.

    Values are compared where all else is equal: where the cell of one value failed, its
    counterparts of the other values are left out too. A value without any cell has no row.
    """
    rows = []
    for axis, values in study.axes.items():
        blocks: dict[tuple[Any, ...], dict[str, CellResult]] = {}
        for result in results:
            others = {**result.cell.values, axis: ""}
            block = blocks.setdefault((*others.values(), result.cell.seed), {})
            block[result.cell.values[axis]] = result
        present = [v for v in values if any(v in block for block in blocks.values())]
        whole = [block for block in blocks.values() if len(block) == len(present)]
        for value in present if len(values) > 1 and whole else ():
            gains: dict[str, list[float]] = {}
            bases: dict[str, list[float]] = {}
            for result in (block[value] for block in whole):
                gains.setdefault(result.cell.dataset, []).append(result.facts["gain"])
                bases.setdefault(result.cell.dataset, []).append(result.facts["base"])
            base, gain = mean_over_datasets(bases), mean_over_datasets(gains)
            num_base_kept = _seeds([block[value] for block in whole])["num_base_kept"]
            row = {"axis": axis, "value": value, "num_cells": len(whole)}
            row["num_base_kept"] = num_base_kept
            rows.append(row | {"base": base, "trained": base + gain, "gain": gain})
    return rows


def _comparisons(
    study: Study,
    groups: Mapping[tuple[str, ...], Sequence[CellResult]],
    gains: Mapping[tuple[str, ...], Gains],
) -> list[dict[str, Any]]:
    """Every configuration against the one that has the baseline's values, all else being equal.

    num_base_kept and num_baseline_kept count the common seeds in which the configuration, and the
    baseline, kept the base model.
    """
    seeds_of_base = {
        names: {r.cell.seed for r in group if r.facts["best_step"] == 0}
        for names, group in groups.items()
    }
    rows = []
    for names, ours in gains.items():
        values = dict(zip(study.axes, names, strict=True))
        against = values | dict(study.baseline)
        baseline = tuple(against.values())
        other = gains.get(baseline)
        if against == values or other is None:
            continue
        comparison = compare_gains(ours, other)
        if comparison is not None:
            numbers = _flat(comparison)
            common = ours.by_seed.keys() & other.by_seed.keys()
            numbers["num_seeds"] = len(common)
            numbers["num_base_kept"] = len(common & seeds_of_base[names])
            numbers["num_baseline_kept"] = len(common & seeds_of_base[baseline])
            rows.append({**values, "difference": numbers.pop("gain"), **numbers})
    return rows


def _of_query_types(
    results: Sequence[CellResult], groups: Mapping[tuple[str, ...], Sequence[CellResult]]
) -> list[dict[str, Any]]:
    """Dev gains by query type, where the study has several types of dev queries."""
    types = sorted({name for result in results for name in result.dev_gains})
    if len(types) < 2:
        return []
    rows = []
    for group in groups.values():
        for name in types:
            having = [result for result in group if name in result.dev_gains]
            if having:
                gains = Gains({r.cell.seed: r.dev_gains[name] for r in having})
                numbers = {**_flat(gain_against_base(gains)), **_seeds(having)}
                rows.append({**group[0].cell.values, "query_type": name, **numbers})
    return _corrected(rows)


def axis_columns(study: Mapping[str, Any]) -> list[str]:
    """The axes that a summary's tables have a column for: the dataset, and all that vary."""
    return [
        axis for axis, values in study["axes"].items() if len(values) > 1 or axis == DATASET_AXIS
    ]
