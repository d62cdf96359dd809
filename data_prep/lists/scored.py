"""The scored candidates of queries, and which of them become the entries of lists.

Q queries, C candidates a query, T teachers. What was not scored, padding included, is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query, shards_of_type
from data_prep.retrieval.candidates import Candidates, candidate_paths, pad_last
from data_prep.teachers.scores import load_scores, score_paths


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
    def human(self) -> bool:
        """Whether people wrote and judged the queries."""
        return self.queries[0].is_human

    def take(self, keep: np.ndarray) -> "ScoredQueries":
        """Some of the queries, by a mask bool [Q]."""
        queries = [query for query, is_kept in zip(self.queries, keep, strict=True) if is_kept]
        raw = [scores[keep] for scores in self.raw]
        return ScoredQueries(self.numbers[keep], queries, self.candidates.take(keep), raw)

    def is_own(self) -> np.ndarray:
        """A mask of each query's own passage among its candidates, bool [Q, C]."""
        return own_columns(self.candidates.rows, np.array([query.row for query in self.queries]))

    def grades(self) -> np.ndarray:
        """Grades int32 [Q, C]: those of people; 1 for the passage a query was made from; else 0."""
        rows = self.candidates.rows
        grades = np.zeros(rows.shape, np.int32)
        for place, query in enumerate(self.queries):
            if query.row >= 0:
                grades[place] = rows[place] == query.row
            else:
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


def list_columns(scores: np.ndarray, grades: np.ndarray, size: int, *, human: bool) -> np.ndarray:
    """Columns of one query's candidates that become its list, the positive first.

    The others stand in the teacher's order. The positive of a human query is the best-scored of
    those with the highest grade. The list of a human query also holds all its other relevant
    passages, which would count as negatives outside of it, and as many unjudged ones as fill it up,
    half of `size` at least.

    Args:
      scores: float32 [C], of the candidates.
      grades: int [C], the human grades, or 1 for the passage a query was made from; else 0.
      size: how many entries the list should have.
      human: whether the grades are human.

    Returns:
      Columns, at most `size` unless the query is human; none where no relevant passage has a score.
    """
    order = np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")
    order = order[np.isfinite(scores[order])]
    if not (grades[order] > 0).any():
        return np.zeros(0, np.int64)
    positive = min(order, key=lambda c: (-grades[c], -scores[c]))
    others = order[order != positive]
    if human:
        num_relevant = int((grades[others] > 0).sum())
        unjudged = others[grades[others] <= 0][: max(size - 1 - num_relevant, size // 2)]
        others = others[(grades[others] > 0) | np.isin(others, unjudged)]
        return np.array([positive, *others], np.int64)
    return np.array([positive, *others[: size - 1]], np.int64)


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
    scores: np.ndarray, grades: np.ndarray, size: int, *, human: bool
) -> ChosenEntries:
    """Choose the entries of lists of `size`; human queries may have more.

    Args:
      scores: [Q, C], calibrated and fused.
      grades: [Q, C], as `list_columns` takes them.
      size: how many entries a list should have.
      human: whether the grades are human.
    """
    columns = [list_columns(scores[i], grades[i], size, human=human) for i in range(len(scores))]
    places = np.array([i for i, each in enumerate(columns) if len(each) >= size], np.int64)
    width = max((len(columns[i]) for i in places), default=0)
    padded = [pad_last(columns[i], width, -1) for i in places]
    yields = {
        "a positive with a score": sum(len(each) > 0 for each in columns),
        "full list of what is left": len(places),
    }
    return ChosenEntries(places, np.array(padded, np.int64).reshape(len(places), width), yields)


def own_columns(rows: np.ndarray, own_rows: np.ndarray) -> np.ndarray:
    """A mask bool [Q, C] of each query's own passage, `own_rows` [Q], among candidates `rows`."""
    own = np.asarray(own_rows)[:, None]
    return (rows == own) & (own >= 0)
