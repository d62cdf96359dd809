"""Stage 5: which queries stay, calibrated and fused scores, and the lists made of them.

Leaves WORKDIR/prep/lists/TYPE.npz and calibration.json, which tells how far the teachers agree, how
much their targets teach, and how many queries each filter let through.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data_prep.lists.calibration import (
    DESCRIPTIONS,
    METHODS,
    agreement,
    fuse_scores,
    matching_temperature,
    normalized_entropy,
    order_scores,
)
from data_prep.lists.human_dev import human_dev_lists
from data_prep.lists.prepared import Lists, save_lists
from data_prep.lists.scored import (
    RESULT_NAME,
    Denoising,
    Filters,
    apply_filters,
    list_paths,
    own_columns,
    positive_columns,
    scored_lists,
)
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries.query import QUERIES_NAME, Query, query_shards
from data_prep.retrieval.candidates import CANDIDATES_NAME, Candidates, candidate_paths, pad_last
from data_prep.teachers.scores import INDEX_NAME as SCORES_NAME
from data_prep.teachers.scores import load_scores, score_paths
from ldx.common.errors import UserError
from ldx.common.files import write_json
from ldx.records.schema import HUMAN_DEV

MAX_AGREEMENT_QUERIES = 2000  # of each type that agreement is measured on
NEARLY_FLAT, NEARLY_ONE_HOT = 0.95, 0.05  # normalised entropy of targets that teach little
MUCH_FLATTER = 0.25  # targets of so much more entropy than the student's own press it together


@dataclass(frozen=True, eq=False)
class _Scored:
    """All queries of a type; T teachers."""

    numbers: np.ndarray
    queries: Sequence[Query]
    candidates: Candidates
    raw: list[np.ndarray]  # [Q, C] of each teacher


def _read_type(workspace: Workspace, query_type: str) -> _Scored:
    paths, scores = candidate_paths(workspace), score_paths(workspace)
    parts = [p for p in query_shards(workspace) if p.queries[0].query_type == query_type]
    candidates = Candidates.concatenate([Candidates.load(paths[part.name]) for part in parts])
    width = candidates.rows.shape[1]
    raw = [
        np.concatenate([pad_last(load_scores(files[p.name]), width, np.nan) for p in parts])
        for files in scores.values()
    ]
    numbers = np.concatenate([np.array(part.numbers) for part in parts])
    return _Scored(numbers, [query for part in parts for query in part.queries], candidates, raw)


def grades_of(queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
    """int32 [Q, C]: human grades; of queries made from a passage, 1 for that passage; else 0."""
    grades = np.zeros(rows.shape, np.int32)
    for number, query in enumerate(queries):
        if query.row >= 0:
            grades[number] = rows[number] == query.row
        else:
            for row, grade in query.relevant.items():
                grades[number, rows[number] == row] = grade
    return grades


def _without_equals(scores: np.ndarray, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
    """The scores [Q, C] without passages that a query of the same words was made from."""
    scores = scores.copy()
    for number, query in enumerate(queries):
        if query.never_negative:
            scores[number, np.isin(rows[number], query.never_negative)] = np.nan
    return scores


class _TypeMaker:
    """Makes the lists of one query type after another, by the settings of a workspace."""

    def __init__(self, workspace: Workspace):
        prep = self.prep = workspace.settings
        self.workspace = workspace
        self.loss = workspace.config.loss.listwise_kl
        retrievers = prep.retrievers
        # The student is the dense retriever without a path.
        self.student = next(
            (i for i, each in enumerate(retrievers.values()) if each == {"kind": "dense"}), None
        )
        self.weights = [section.get("weight", 1.0) for section in prep.teachers.values()]
        self.teachers = list(prep.teachers)
        self.filters = Filters(
            prep.list_size,
            prep.rank_limit,
            prep.require_own_first,
            prep.min_top_score_percentile,
        )
        self.denoising = Denoising(prep.absolute_margin, prep.relative_margin, prep.max_score)

    def make(self, query_type: str) -> tuple[Lists | None, dict[str, Any]]:
        """The lists of a type, None where no query stays, and what is reported of it."""
        if query_type == HUMAN_DEV:
            return human_dev_lists(self.workspace)
        scored = _read_type(self.workspace, query_type)
        human = scored.queries[0].is_human
        rows = scored.candidates.rows
        own = np.array([query.row for query in scored.queries])
        keep, yields = apply_filters(
            order_scores(scored.raw, self.weights),
            scored.candidates.fused_rank,
            own_columns(rows, own),
            self.filters,
            human=human,
        )
        facts: dict[str, Any] = {"yields": yields}
        if not keep.any():
            return None, facts
        raw = [scores[keep] for scores in scored.raw]
        queries = [query for query, stays in zip(scored.queries, keep, strict=True) if stays]
        scales = [METHODS[self.prep.calibration].fit(scores) for scores in raw]
        each = [scale(scores) for scale, scores in zip(scales, raw, strict=True)]
        fused = fuse_scores(each, self.weights)
        grades = grades_of(queries, rows[keep])
        facts["scales"] = {n: s.facts() for n, s in zip(self.teachers, scales, strict=True)}
        facts |= self._agreement(raw)
        usable = self._denoise(_without_equals(fused, queries, rows[keep]), grades, yields)
        numbers, rows, size = scored.numbers[keep], rows[keep], self.prep.list_size
        others = [*raw] if self.student is None else [*raw, self._student_scores(scored, keep)]
        lists = scored_lists(numbers, rows, usable, others, grades, size, yields, human=human)
        if lists is None:
            return None, facts
        student = None if self.student is None else lists.raw_scores[:, -1]
        lists = replace(lists, raw_scores=lists.raw_scores[:, : len(raw)])
        facts["entropy"] = self._entropy(query_type, lists, student)
        return lists, facts

    def _student_scores(self, scored: _Scored, keep: np.ndarray) -> np.ndarray:
        """The student's own scores of the candidates, [Q, C]."""
        found = scored.candidates.scores[keep, self.student]
        return np.where(scored.candidates.rows[keep] >= 0, found, np.float32(np.nan))

    def _denoise(self, fused: np.ndarray, grades: np.ndarray, yields: dict[str, int]) -> np.ndarray:
        """The scores without those candidates that are too good to be negatives."""
        if not self.denoising.is_on:
            return fused
        positive = np.take_along_axis(fused, positive_columns(fused, grades)[:, None], axis=1)
        removes = self.denoising.removes(fused, positive[:, 0])
        gone = np.zeros(fused.shape, bool)
        for name, removed in removes.items():
            removed = removed & (grades <= 0)
            yields[f"entries over {name}"] = int(removed.sum())
            gone |= removed
        return np.where(gone, np.float32(np.nan), fused)

    def _agreement(self, raw: Sequence[np.ndarray]) -> dict[str, Any]:
        found = {}
        for i, first in enumerate(self.teachers):
            for j in range(i + 1, len(self.teachers)):
                some = slice(0, MAX_AGREEMENT_QUERIES)
                value = agreement(raw[i][some], raw[j][some])
                found[f"{first} and {self.teachers[j]}"] = {
                    "tau": round(value.tau, 4),
                    "top-1": round(value.top_1, 4),
                }
        return {"agreement": found} if found else {}

    def _entropy(self, query_type: str, lists: Lists, student: np.ndarray | None) -> dict[str, Any]:
        """Quantiles of the targets' entropy, and the temperature that the student's would match."""
        sample = slice(0, MAX_AGREEMENT_QUERIES)
        scores, temperature = lists.teacher_scores[sample], self.loss.teacher_temperature
        entropy = normalized_entropy(scores, temperature)
        low, median, high = np.quantile(entropy, [0.1, 0.5, 0.9]).round(4).tolist()
        facts = {"10%": low, "median": median, "90%": high}
        change, most = "", NEARLY_FLAT
        if student is not None:
            own = np.median(normalized_entropy(student[sample], self.loss.student_temperature))
            matching = matching_temperature(scores, float(np.clip(own, 0.01, 0.99)))
            facts |= {"student": round(float(own), 4), "matching temperature": round(matching, 4)}
            change = f"; at {matching:.2g} they would be as the student's own, {own:.2f}"
            most = min(most, own + MUCH_FLATTER)
        if not NEARLY_ONE_HOT < median < most:
            what = (
                "flatter than what the student can say already: they press its scores together"
                if median >= most
                else "almost one-hot: no more than a label"
            )
            logging.warning(
                "%s: at loss.listwise_kl.teacher_temperature=%g the targets are %s (median entropy "
                "%.2f of the most%s)",
                *(query_type, temperature, what, median, change),
            )
        return facts


def _work(workspace: Workspace) -> dict[str, Any]:
    maker = _TypeMaker(workspace)
    types = dict.fromkeys(part.queries[0].query_type for part in query_shards(workspace))
    folder, facts, num_lists = workspace.prep / "lists", {}, 0
    kept = []
    for query_type in types:
        lists, facts[query_type] = maker.make(query_type)
        if lists is None:
            continue
        num_lists += len(lists.numbers)
        kept.append(query_type)
        save_lists(folder / f"{query_type}.npz", lists)
    if not set(kept) - {HUMAN_DEV}:
        yields = {name: each["yields"] for name, each in facts.items()}
        raise UserError(
            f"no lists: of each query type stay {yields}; loosen prep.rank_limit, "
            "prep.require_own_first, prep.list_size or the margins"
        )
    prep = workspace.settings
    value = {
        "types": kept,
        "calibration": {
            "method": DESCRIPTIONS[prep.calibration],
            "fusion": "mean of the teachers' calibrated scores by weight",
            "teacher_temperature": maker.loss.teacher_temperature,
            "scales": {name: each["scales"] for name, each in facts.items() if "scales" in each},
        },
        "facts": facts,
    }
    write_json(workspace.prep / RESULT_NAME, value)
    return {
        "lists": num_lists,
        **{name: _yield(each["yields"]) for name, each in facts.items()},
        "facts": facts,
    }


def _yield(yields: Mapping[str, int]) -> str:
    stages = [value for name, value in yields.items() if not name.startswith("entries ")]
    return f"{stages[-1]} of {stages[0]}"


def _outputs(workspace: Workspace) -> list[Path]:
    result = workspace.prep / RESULT_NAME
    return [result, *(list_paths(workspace).values() if result.is_file() else ())]


STAGE = Stage(
    name="calibrate",
    keys=(
        "prep.teachers",
        "prep.calibration",
        "prep.rank_limit",
        "prep.require_own_first",
        "prep.min_top_score_percentile",
        "prep.list_size",
        "prep.absolute_margin",
        "prep.relative_margin",
        "prep.max_score",
        "loss.listwise_kl.teacher_temperature",
        "loss.listwise_kl.student_temperature",
    ),
    inputs=lambda workspace: file_fingerprints(
        {
            "queries": needed(workspace.prep / QUERIES_NAME, "generate_queries"),
            "candidates": needed(workspace.prep / CANDIDATES_NAME, "mine"),
            "scores": needed(workspace.prep / SCORES_NAME, "score"),
        }
    ),
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
