"""Runs of BM25 and of hybrids over a whole corpus, to compare a student with."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.retrieval.bm25 import Bm25, warn_of_no_matches
from data_prep.retrieval.fusion import top_rows
from data_prep.teachers.hybrid_weight import hybrid_scores
from ldx.common.progress import progress_bar
from ldx.eval.metrics import DEPTH, Run
from ldx.records.sets import PassageSet

MAX_QUERIES_AT_ONCE = 16
SCORES_AT_ONCE = 2**24  # queries times passages


class Baseline(enum.StrEnum):
    """A run that a student is compared with; its file is WORKDIR/baselines/BASELINE.trec."""

    BM25 = "bm25"
    TEACHER = "teacher"


@dataclass(frozen=True, eq=False)
class DenseEmbeddings:
    """The embeddings of Q queries and N passages by a dense retriever.

    Attributes:
      queries: float32 [Q, D].
      passages: float32 [N, D].
    """

    queries: np.ndarray
    passages: np.ndarray


@dataclass(frozen=True)
class Hybrid:
    """A teacher that is a hybrid.

    Attributes:
      dense: the dense retriever that it joins with BM25.
      dense_weight: the weight of the dense retriever.
      share: what a point of the hybrid's score adds to the score of all teachers together.
    """

    dense: str
    dense_weight: float
    share: float


def _z_scores(scores: np.ndarray) -> np.ndarray:
    """z-scores of each query's scores [Q, N] of all passages; 0 where they do not vary."""
    deviation = scores.std(axis=1, keepdims=True)
    varies = deviation > 1e-6
    z = (scores - scores.mean(axis=1, keepdims=True)) / np.where(varies, deviation, 1.0)
    return np.where(varies, z, 0.0)


def find_runs(
    queries: Mapping[str, str],
    passages: PassageSet,
    bm25: Bm25,
    embeddings: Mapping[str, DenseEmbeddings],
    hybrids: Sequence[Hybrid],
) -> dict[Baseline, Run]:
    """The first DEPTH passages of BM25 and of the teacher for each query, in bounded memory.

    Args:
      queries: texts by query_id.
      passages: the passages to search.
      bm25: the index of `passages`.
      embeddings: the embeddings of `queries` and `passages`, by dense retriever.
      hybrids: the hybrids whose scores, times their shares, add up to the teacher's; without any
        there is no run of the teacher.
    """
    num_without = 0
    names = list(Baseline) if hybrids else [Baseline.BM25]
    runs: dict[Baseline, Run] = {name: {} for name in names}
    query_ids, texts = list(queries), list(queries.values())
    rows = np.arange(len(passages))
    at_once = max(1, min(MAX_QUERIES_AT_ONCE, SCORES_AT_ONCE // len(passages)))
    with progress_bar(total=len(texts), desc="baselines", unit=" queries") as bar:
        for start in range(0, len(texts), at_once):
            part = slice(start, start + at_once)
            lexical = np.zeros((len(texts[part]), len(passages)), np.float32)
            for i, matches in enumerate(bm25.match_all(texts[part])):
                lexical[i, matches.rows] = matches.scores
                num_without += not len(matches.rows)
            scores = {Baseline.BM25: lexical}
            if hybrids:
                dense = {
                    name: _z_scores(each.queries[part] @ each.passages.T)
                    for name, each in embeddings.items()
                }
                scores[Baseline.TEACHER] = _teacher_scores(_z_scores(lexical), dense, hybrids)
            for name, by_query in scores.items():
                for query_id, values in zip(query_ids[part], by_query, strict=True):
                    # BM25 does not rank a passage that shares no word with the query.
                    found = np.flatnonzero(values) if name == Baseline.BM25 else rows
                    best = top_rows(found, values[found], DEPTH).tolist()
                    runs[name][query_id] = {passages[i].doc_id: float(values[i]) for i in best}
            bar.update(len(texts[part]))
    warn_of_no_matches(num_without, len(texts), "test queries")
    return runs


def _teacher_scores(
    z_bm25: np.ndarray, z_dense: Mapping[str, np.ndarray], hybrids: Sequence[Hybrid]
) -> np.ndarray:
    """The hybrids' scores [Q, N], added up by their shares."""
    first, *others = (
        each.share * hybrid_scores(z_bm25, z_dense[each.dense], each.dense_weight)
        for each in hybrids
    )
    return sum(others, start=first)
