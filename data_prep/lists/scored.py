"""The scored candidates of queries, and which of them become the entries of lists.

Q queries, C candidates a query, T teachers. What was not scored, padding included, is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.pipeline.settings import ListSampling
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query, shards_of_type
from data_prep.retrieval.candidates import Candidates, candidate_paths, pad_last
from data_prep.teachers.scores import load_scores, score_paths

SCORES_AT_ONCE = 2**22  # of candidates, whose lists are chosen together


@dataclass(frozen=True, eq=False)
class ScoredQueries:
    """Queries of one type with their candidates and the scores of all teachers.

    Attributes:
      numbers: int64 [Q], the places of the queries among all.
      queries: the queries.
      candidates: what was mined for the queries.
      raw: float32 [Q, C], the scores of each teacher.
    """

    numbers: np.ndarray
    queries: Sequence[Query]
    candidates: Candidates
    raw: Sequence[np.ndarray]

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.queries)

    @property
    def judged(self) -> bool:
        """Whether people judged passages for the queries."""
        return self.queries[0].is_judged

    @property
    def own_passage(self) -> bool:
        """Whether the queries were made from passages."""
        return self.queries[0].has_own_passage

    def take(self, keep: np.ndarray) -> "ScoredQueries":
        """Some of the queries, by a mask bool [Q]."""
        queries = [query for query, is_kept in zip(self.queries, keep, strict=True) if is_kept]
        raw = [scores[keep] for scores in self.raw]
        return ScoredQueries(self.numbers[keep], queries, self.candidates.take(keep), raw)

    def best_first(self, scores: np.ndarray) -> "ScoredQueries":
        """The same queries with their candidates ordered by `scores` [Q, C], the highest first."""
        order = np.argsort(np.where(np.isfinite(scores), -scores, np.inf), axis=1, kind="stable")

        def ordered(values: np.ndarray) -> np.ndarray:
            return np.take_along_axis(values, order, axis=1)

        candidates = Candidates(
            ordered(self.candidates.rows),
            ordered(self.candidates.fused_rank),
            np.take_along_axis(self.candidates.scores, order[:, None], axis=2),
            self.candidates.moments,
        )
        raw = [ordered(each) for each in self.raw]
        return ScoredQueries(self.numbers, self.queries, candidates, raw)

    def is_own(self) -> np.ndarray:
        """A mask of each query's own passage among its candidates, bool [Q, C]."""
        return own_columns(self.candidates.rows, np.array([query.row for query in self.queries]))

    def grades(self, scores: np.ndarray) -> np.ndarray:
        """Grades int32 [Q, C] of candidates, by which the positive of each query is chosen.

        They are those of people, or 1 for the passage that a query was made from. A query of a log
        has neither, so the passage that `scores` [Q, C] rank first has 1. All others have 0.
        """
        if self.own_passage:
            return self.is_own().astype(np.int32)
        rows = self.candidates.rows
        grades = np.zeros(rows.shape, np.int32)
        if not self.judged:
            is_scored = np.isfinite(scores)
            best = np.where(is_scored, scores, -np.inf).argmax(axis=1)
            grades[np.arange(len(rows)), best] = is_scored.any(axis=1)
            return grades
        for place, query in enumerate(self.queries):
            for row, grade in query.relevant.items():
                grades[place, rows[place] == row] = grade
        return grades

    def never_negative(self) -> np.ndarray:
        """A mask of candidates from which a query of the same words was made, bool [Q, C]."""
        rows = self.candidates.rows
        never = np.zeros(rows.shape, bool)
        for place, query in enumerate(self.queries):
            if query.never_negative:
                never[place] = np.isin(rows[place], query.never_negative)
        return never


def read_scored(workspace: Workspace, query_type: str) -> ScoredQueries:
    """All queries of a type, with their candidates and scores that the stages left."""
    paths, scores = candidate_paths(workspace), score_paths(workspace)
    parts = shards_of_type(workspace, query_type)
    candidates = Candidates.concatenate([Candidates.load(paths[part.name]) for part in parts])
    width = candidates.rows.shape[1]
    raw = [
        np.concatenate([pad_last(load_scores(files[p.name]), width, np.nan) for p in parts])
        for files in scores.values()
    ]
    numbers = np.concatenate([np.array(part.numbers) for part in parts])
    queries = [query for part in parts for query in part.queries]
    return ScoredQueries(numbers, queries, candidates, raw)


@dataclass(frozen=True, eq=False)
class ChosenEntries:
    """The candidates that become entries of lists; G lists of at most L entries.

    Attributes:
      places: int64 [G], the queries whose lists are full, by their place among Q.
      columns: int64 [G, L], their candidates, the positive first; -1 is padding.
      yields: how many queries have a positive, and how many have a full list.
    """

    places: np.ndarray
    columns: np.ndarray
    yields: dict[str, int]

    def take(self, values: np.ndarray, padding: float) -> np.ndarray:
        """The values [G, L] of the chosen entries among values [Q, C] of all candidates."""
        chosen = np.take_along_axis(values[self.places], np.maximum(self.columns, 0), axis=1)
        return np.where(self.columns >= 0, chosen, np.asarray(padding, chosen.dtype))


def choose_entries(
    scores: np.ndarray,
    grades: np.ndarray,
    size: int | None,
    *,
    judged: bool,
    sampling: ListSampling = ListSampling.TOP,
    least_entries: int | None = None,
) -> ChosenEntries:
    """Choose the entries of lists of `size`, the positive first, the others in the scores' order.

    The positive is the best-scored of those with the highest grade; a query of which no relevant
    passage has a score has no list. The list of a judged query also holds all its other relevant
    passages, which would count as negatives outside of it, and as many unjudged ones as fill it up,
    half of `size` at least. `sampling` says which of the candidates that are no positive and, where
    people judged, not relevant these are.

    Args:
      scores: float32 [Q, C], calibrated and fused.
      grades: int [Q, C], as of `ScoredQueries.grades`.
      size: how many entries a list should have; judged queries may have more. None: all scored.
      judged: whether the grades are those of people.
      sampling: TOP: the best-scored; STRATIFIED: those nearest to equal steps of score from the
        best to the worst (arXiv 2604.04734: the whole range of the teacher's scores is covered).
      least_entries: how many entries a list must have to stay; None: `size`.
    """
    num_queries, num_candidates = scores.shape
    size = num_candidates if size is None else size
    least = size if least_entries is None else least_entries
    step = max(1, SCORES_AT_ONCE // max(1, num_candidates))
    blocks = [
        _columns(scores[i : i + step], grades[i : i + step], size, judged, sampling)
        for i in range(0, num_queries, step)
    ]
    lengths = np.concatenate([(block >= 0).sum(axis=1) for block in blocks] or [np.zeros(0, int)])
    places = np.flatnonzero((lengths >= least) & (lengths > 0))
    width = int(lengths[places].max(initial=0))
    same_width = [pad_last(block[:, :width], width, -1) for block in blocks]
    columns = np.concatenate(same_width or [np.zeros((0, width), np.int64)])
    yields = {
        "a positive with a score": int((lengths > 0).sum()),
        "full list of what is left": len(places),
    }
    return ChosenEntries(places, columns[places], yields)


def _columns(
    scores: np.ndarray, grades: np.ndarray, size: int, judged: bool, sampling: ListSampling
) -> np.ndarray:
    """The columns [Q, L] of candidates that become lists, -1 where there is none, at the end."""
    num_queries, num_candidates = scores.shape
    queries = np.arange(num_queries)
    is_scored = np.isfinite(scores)
    order = np.argsort(np.where(is_scored, -scores, np.inf), axis=1, kind="stable")
    ranks = np.arange(num_candidates)
    is_there = ranks < is_scored.sum(axis=1, keepdims=True)
    grades = np.where(is_there, np.take_along_axis(grades, order, axis=1), 0)
    positive = grades.argmax(axis=1)  # the first of the highest grade, so its best-scored
    has_positive = grades[queries, positive] > 0
    others = is_there & (ranks != positive[:, None]) & has_positive[:, None]
    is_kept = others & (grades > 0) if judged else np.zeros_like(others)
    room = size - 1 - is_kept.sum(axis=1)
    others &= ~is_kept
    room = np.maximum(room, size // 2) if judged else room
    if sampling == ListSampling.TOP:
        others &= np.cumsum(others, axis=1) <= room[:, None]
    else:
        for row in np.flatnonzero(others.sum(axis=1) > room):
            of_row = np.flatnonzero(others[row])
            others[row] = False
            steps = _at_equal_steps(scores[row, order[row, of_row]], int(room[row]))
            others[row, of_row[steps]] = True
    others |= is_kept
    places = np.cumsum(others, axis=1)
    columns = np.full((num_queries, 1 + int(places.max(initial=0))), -1, np.int64)
    columns[has_positive, 0] = order[queries, positive][has_positive]
    query, rank = np.nonzero(others)
    columns[query, places[query, rank]] = order[query, rank]
    return columns


def _at_equal_steps(scores: np.ndarray, number: int) -> np.ndarray:
    """Places of `number` of the scores [n], the highest first, nearest to equal steps between.

    The first and the last are among them. Where several steps are nearest to the same score, its
    neighbours take the others, so that no place stands twice.
    """
    steps = np.linspace(scores[0], scores[-1], number)
    after = np.clip(np.searchsorted(-scores, -steps), 1, len(scores) - 1)
    is_before = scores[after - 1] - steps <= steps - scores[after]
    turn = np.arange(number)
    places = np.maximum.accumulate(after - is_before - turn) + turn
    return np.minimum(places, len(scores) - number + turn)


def own_columns(rows: np.ndarray, own_rows: np.ndarray) -> np.ndarray:
    """A mask bool [Q, C] of each query's own passage, `own_rows` [Q], among candidates `rows`."""
    own = np.asarray(own_rows)[:, None]
    return (rows == own) & (own >= 0)
