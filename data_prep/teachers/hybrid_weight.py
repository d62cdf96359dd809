"""The weight w of the hybrid teacher, w · z(dense) + (1 − w) · z(BM25), and how it is chosen.

z-scores are taken for each query over the whole corpus. Q queries, C candidates.

Where there are no judgments, dev queries that were made from passages must find their own passage
WITHOUT the sentence they were cut from. With the sentence in place a query finds its passage by its
very words, and BM25 looks perfect; but people's queries are not verbatim. (The inverse cloze task
of Lee et al., ACL 2019.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.corpora.passages import Passages
from data_prep.pipeline.draws import draw
from data_prep.pipeline.settings import QueryOrigin
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.extractive import remove_sentence
from data_prep.queries.query import Query, QueryShard
from data_prep.retrieval.bm25 import Bm25
from data_prep.retrieval.candidates import Candidates
from data_prep.retrieval.dense import DenseModel
from data_prep.retrieval.fusion import z_scores
from data_prep.retrieval.retrievers import corpus_bm25, dense_model
from ldx.common.errors import UserError
from ldx.data.tokens import Texts
from ldx.records.manifest import NDCG_BY_WEIGHT
from ldx.records.schema import HUMAN_DEV

WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))
DEFAULT_WEIGHT = 0.5
LOG_WEIGHT = 0.6
"""The weight where neither judgments nor passages of their own tell what queries of a log want.

It is the one with which the recipe for a log was tried."""
MAX_CLOZE_QUERIES = 512
MIN_QUERIES = 30  # with fewer, the weight stays the default


class HybridColumns(NamedTuple):
    """The places of the two retrievers that a hybrid joins, among all retrievers."""

    bm25: int
    dense: int


@dataclass(frozen=True)
class ChosenWeight:
    """The weight of a hybrid's dense retriever.

    Attributes:
      weight: from 0 to 1.
      facts: what is reported of the choice.
    """

    weight: float
    facts: dict[str, Any]


def hybrid_scores(z_bm25: np.ndarray, z_dense: np.ndarray, weight: float) -> np.ndarray:
    """Hybrid scores float32 of z-scores (`data_prep.retrieval.fusion.z_scores`) of equal shape."""
    return (weight * z_dense + (1 - weight) * z_bm25).astype(np.float32)


def ndcg_at_10(scores: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """nDCG@10 float64 [Q] of candidates [Q, C] ranked by score; padding has score -inf."""
    discounts = 1 / np.log2(np.arange(2, 12))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    ranked = np.take_along_axis(gains, order, axis=1)
    ideal = -np.sort(-gains, axis=1)[:, :10]
    dcg = (ranked * discounts[: ranked.shape[1]]).sum(1)
    return dcg / np.maximum((ideal * discounts[: ideal.shape[1]]).sum(1), 1e-9)


def ndcg_by_weight(
    z_bm25: np.ndarray, z_dense: np.ndarray, padding: np.ndarray, gains: np.ndarray
) -> np.ndarray:
    """nDCG@10 at each of WEIGHTS, float64 [len(WEIGHTS), Q]; all arguments [Q, C]."""
    values = []
    for weight in WEIGHTS:
        scores = hybrid_scores(z_bm25, z_dense, weight)
        values.append(ndcg_at_10(np.where(padding, -np.inf, scores), gains))
    return np.stack(values)


def best_weight(ndcg: np.ndarray) -> float:
    """The weight nearest to one half that no other beats by more than a standard error.

    The error is that of the paired difference to the best weight. So the two retrievers stay equal
    where queries are few, or do as well with either.

    Args:
      ndcg: [len(WEIGHTS), num_queries].
    """
    loss = ndcg[ndcg.mean(axis=1).argmax()] - ndcg
    error = loss.std(axis=1) / np.sqrt(ndcg.shape[1])
    good_enough = np.flatnonzero(loss.mean(axis=1) <= error + 1e-12)
    return min((WEIGHTS[i] for i in good_enough), key=lambda weight: abs(weight - 0.5))


def choose_weight(
    workspace: Workspace,
    section: Mapping[str, Any],
    parts: Sequence[QueryShard],
    paths: Mapping[str, Path],
    passages: Passages,
    columns: HybridColumns,
) -> ChosenWeight:
    """The dense retriever's weight in the hybrid, as the section sets it or dev queries choose it.

    No test judgment is used: judged dev queries are measured by their training judgments, and
    queries made from passages by the cloze task. Queries of a log alone choose nothing, since they
    have neither: they get LOG_WEIGHT.
    """
    weight = section.get("dense_weight")
    if weight is not None:
        if not 0 <= weight <= 1:
            raise UserError(f"prep.teachers: dense_weight={weight}; wanted from 0 to 1, or None")
        return ChosenWeight(float(weight), {})
    seed = workspace.config.seed
    dev: list[tuple[Query, Candidates]] = []
    for part in parts:
        candidates = Candidates.load(paths[part.name])
        dev += [
            (query, candidates.take(np.array([place])))
            for place, query in enumerate(part.queries)
            if query.split(workspace.settings.dev_fraction, seed) == "dev"
            and (query.relevant or query.excerpt)
        ]
    judged = [(query, each) for query, each in dev if query.relevant]
    shortened = cloze_queries([query for query, _ in dev], passages.texts, seed)
    if len(judged) >= MIN_QUERIES:
        queries = [query for query, _ in judged]
        candidates = Candidates.concatenate([each for _, each in judged])
        ndcg = judged_ndcg(queries, candidates, columns)
        choice = "judgments of dev queries"
    elif len(shortened) >= MIN_QUERIES:
        name = list(workspace.settings.retrievers)[columns.dense]
        ndcg = cloze_ndcg(
            [query for query, _ in dev],
            shortened,
            Candidates.concatenate([each for _, each in dev]),
            corpus_bm25(workspace, passages),
            dense_model(workspace, name),
            columns,
        )
        choice = "the cloze task"
    elif {part.query_type for part in parts} - {HUMAN_DEV} == {QueryOrigin.LOG}:
        facts = {"dev queries for the weight": 0, "choice": "the default for a log"}
        return ChosenWeight(LOG_WEIGHT, facts)
    else:
        return ChosenWeight(DEFAULT_WEIGHT, {"dev queries for the weight": 0, "choice": "default"})
    curve = zip(WEIGHTS, ndcg.mean(axis=1).tolist(), strict=True)
    facts = {
        "dev queries for the weight": ndcg.shape[1],
        "choice": choice,
        NDCG_BY_WEIGHT: {str(w): round(value, 4) for w, value in curve},
        "rule": "of the weights within a standard error of the best, the one nearest to 0.5",
    }
    return ChosenWeight(best_weight(ndcg), facts)


def cloze_queries(queries: Sequence[Query], texts: Texts, seed: int) -> dict[int, str]:
    """Passages of some queries, without the sentence they were cut from, by the query's place."""
    numbers = sorted(
        (i for i, query in enumerate(queries) if query.excerpt),
        key=lambda i: draw(seed, "cloze", queries[i].query_id),
    )
    shortened = {}
    for number in numbers[:MAX_CLOZE_QUERIES]:
        passage = texts[queries[number].row]
        rest = remove_sentence(passage, queries[number].excerpt)
        if rest != passage:
            shortened[number] = rest
    return dict(sorted(shortened.items()))


def cloze_ndcg(
    queries: Sequence[Query],
    shortened: dict[int, str],
    candidates: Candidates,
    bm25: Bm25,
    model: DenseModel,
    columns: HybridColumns,
) -> np.ndarray:
    """nDCG@10 by weight of the cloze task, float64 [len(WEIGHTS), number of `shortened`].

    Args:
      queries: Q queries.
      shortened: shortened passages by the query's place, as `cloze_queries` makes them.
      candidates: the candidates of the Q queries.
      bm25: the index, which also scores the shortened passages.
      model: the dense retriever's model, which embeds the shortened passages.
      columns: the places of BM25 and of the dense retriever.
    """
    numbers = np.array(list(shortened), np.int64)
    texts = [queries[i].text for i in numbers]
    rest = list(shortened.values())
    chosen = candidates.take(numbers)
    is_own = chosen.rows == np.array([queries[i].row for i in numbers])[:, None]
    scores = chosen.scores.copy()
    of_rest = np.einsum("nd,nd->n", model.embed(texts, "query"), model.embed(rest, "passage"))
    for number, values in ((columns.bm25, bm25.pair_scores(texts, rest)), (columns.dense, of_rest)):
        scores[:, number] = np.where(is_own, values[:, None], scores[:, number])
    z = z_scores(scores, chosen.moments)
    padding = chosen.rows < 0
    return ndcg_by_weight(
        z[:, columns.bm25], z[:, columns.dense], padding, is_own.astype(np.float64)
    )


def judged_ndcg(
    queries: Sequence[Query], candidates: Candidates, columns: HybridColumns
) -> np.ndarray:
    """nDCG@10 by weight of queries with judgments, float64 [len(WEIGHTS), Q]."""
    gains = np.zeros(candidates.rows.shape)
    for number, query in enumerate(queries):
        for row, grade in query.relevant.items():
            gains[number, candidates.rows[number] == row] = grade
    z = z_scores(candidates.scores, candidates.moments)
    return ndcg_by_weight(z[:, columns.bm25], z[:, columns.dense], candidates.rows < 0, gains)
