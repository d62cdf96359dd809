"""Lists of teacher scores: how they are filtered, calibrated, fused, de-noised and cut to size."""

from typing import Any

import numpy as np

from data_prep.corpora.passages import Roles, roles_path
from data_prep.lists.calibration import METHODS, fuse_scores, order_scores
from data_prep.lists.filters import Denoising, Filters, apply_filters
from data_prep.lists.human_dev import human_dev_lists
from data_prep.lists.prepared import UNJUDGED, PreparedLists, TypeLists
from data_prep.lists.results import TAUGHT_FILES
from data_prep.lists.scored import ChosenEntries, ScoredQueries, choose_entries, read_scored
from data_prep.lists.targets import agreements, target_entropy
from data_prep.pipeline.workspace import Workspace
from data_prep.teachers.scoring import may_have_lists
from ldx.records.schema import HUMAN_DEV

SHORT_LIST = 20  # a list of so many entries stays, however long lists should be


class TaughtLists:
    """A maker of the lists of one query type after another, by the settings of a workspace."""

    def __init__(self, workspace: Workspace):
        prep = self._prep = workspace.settings
        self._workspace = workspace
        # The student is the dense retriever without a path.
        retrievers = list(prep.retrievers.values())
        student = {"kind": "dense"}
        self._student = retrievers.index(student) if student in retrievers else None
        self._teachers = list(prep.teachers)
        self._weights = [section.get("weight", 1.0) for section in prep.teachers.values()]
        self._least_entries = _least_entries(workspace)
        self._filters = Filters(
            self._least_entries,
            prep.rank_limit,
            prep.require_own_first,
            prep.min_top_score_percentile,
        )
        self._denoising = Denoising(prep.absolute_margin, prep.relative_margin, prep.max_score)

    def make(self, query_type: str) -> TypeLists:
        """The lists of a query type, and what is reported of them."""
        if query_type == HUMAN_DEV:
            return human_dev_lists(self._workspace)
        scored = read_scored(self._workspace, query_type)
        num_queries = len(scored)
        is_scored = may_have_lists(self._prep.rank_limit, scored.queries, scored.candidates)
        if not is_scored.any():
            yields = {"queries": num_queries, "own passage found": 0}
            return TypeLists(None, num_queries, {"yields": yields})
        for scores in scored.raw:  # a hybrid has scored the others too
            scores[~is_scored] = np.nan
        if not (scored.own_passage or scored.judged):
            # Calibration clips the best scores to 1; among these the first in order is the best.
            scored = scored.best_first(order_scores(scored.raw, self._weights))
        filtered = apply_filters(
            order_scores(scored.raw, self._weights),
            scored.candidates.fused_rank,
            scored.is_own(),
            self._filters,
            own_passage=scored.own_passage,
        )
        if not filtered.keep.any():
            return TypeLists(None, num_queries, {"yields": filtered.yields})
        scored = scored.take(filtered.keep)
        scales = [METHODS[self._prep.calibration].fit(scores) for scores in scored.raw]
        calibrated = [scale(raw) for scale, raw in zip(scales, scored.raw, strict=True)]
        fused = fuse_scores(calibrated, self._weights)
        fused = np.where(scored.never_negative(), np.float32(np.nan), fused)
        grades = scored.grades(fused)
        denoised = self._denoising.apply(fused, grades)
        entries = choose_entries(
            denoised.scores,
            grades,
            self._prep.list_size,
            judged=scored.judged,
            sampling=self._prep.list_sampling,
            least_entries=self._least_entries,
        )
        facts: dict[str, Any] = {
            "yields": filtered.yields | denoised.yields | entries.yields,
            "scales": {n: s.facts() for n, s in zip(self._teachers, scales, strict=True)},
        }
        if len(self._teachers) > 1:
            facts["agreement"] = agreements(self._teachers, scored.raw)
        if not len(entries.places):
            return TypeLists(None, num_queries, facts)
        lists = _joined(scored, entries, denoised.scores, grades)
        facts["entropy"] = target_entropy(
            query_type,
            lists.teacher_scores,
            self._student_scores(scored, entries),
            self._workspace.config.loss.listwise_kl,
        )
        return TypeLists(lists, num_queries, facts)

    def _student_scores(self, scored: ScoredQueries, entries: ChosenEntries) -> np.ndarray | None:
        """The student's own scores [G, L] of the entries; None where it is not a retriever."""
        if self._student is None:
            return None
        return entries.take(scored.candidates.scores[:, self._student], np.nan)


def _least_entries(workspace: Workspace) -> int:
    """How many entries a list must have to stay.

    Lists of a small size are full. A longer one may be shorter than it should be, and so may any
    list of a corpus that is smaller than it.
    """
    size = workspace.settings.list_size
    if size is None or Roles.load(roles_path(workspace)).num_candidates <= size:
        return 2
    return min(size, SHORT_LIST)


def _joined(
    scored: ScoredQueries, entries: ChosenEntries, scores: np.ndarray, grades: np.ndarray
) -> PreparedLists:
    """The lists of the chosen entries, from the scores and grades [Q, C] of all candidates."""
    grades = entries.take(grades, 0)
    # The passage that a query was made from, or that the teacher scores highest, is the positive
    # by its place, not by a judgment.
    is_judged = scored.judged & (grades > 0)
    return PreparedLists(
        scored.numbers[entries.places],
        entries.take(scored.candidates.rows, -1).astype(np.int64),
        np.where(is_judged, grades, UNJUDGED).astype(np.int32),
        entries.take(scores, np.nan),
        np.stack([entries.take(raw, np.nan) for raw in scored.raw], axis=1),
    )


def teacher_shares(workspace: Workspace) -> dict[str, float]:
    """What a point of each teacher's raw score adds to the fused score, by the teacher's name.

    A share is a teacher's weight times the slope of its calibration. Calibrations are fitted to
    each query type, and a test query has no type, so the slope is the mean over types. Nothing is
    clipped: what lies above the 99th percentile keeps its order. The share of a single teacher
    is 1.

    Raises:
      UserError: there are several teachers, and the stage calibrate has not been run.
    """
    teachers = workspace.settings.teachers
    if len(teachers) == 1:
        return dict.fromkeys(teachers, 1.0)
    result = TAUGHT_FILES.read_result(workspace)
    method = METHODS[workspace.settings.calibration]
    types = [name for name in result["types"] if name != HUMAN_DEV]
    scales = [result["calibration"]["scales"][name] for name in types]
    weights = {name: section.get("weight", 1.0) for name, section in teachers.items()}
    return {
        name: weight
        / sum(weights.values())
        * float(np.mean([method(**of_type[name]).slope for of_type in scales]))
        for name, weight in weights.items()
    }
