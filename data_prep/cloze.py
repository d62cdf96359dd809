"""How good mixtures of BM25 and a dense retriever are, without anyone's judgment.

Dev queries are asked against their own passage WITHOUT the sentence they were cut from. With the
sentence in place a query finds its passage by its very words, and BM25 looks perfect; people's
queries are not verbatim. (The inverse cloze task of Lee et al., ACL 2019.)
"""

from collections.abc import Sequence

import numpy as np

from data_prep.bm25 import Bm25
from data_prep.candidates import Candidates, z_scores
from data_prep.dense import DenseModel
from data_prep.hybrid import ndcg_by_weight
from data_prep.pipeline.draws import draw
from data_prep.queries.extractive import remove_sentence
from data_prep.queries.query import Query
from ldx.data.tokens import Texts

MAX_QUERIES = 512


def cloze_queries(queries: Sequence[Query], texts: Texts, seed: int) -> dict[int, str]:
    """Some queries by their place, with the passage they were cut from, without their sentence."""
    numbers = sorted(
        (i for i, query in enumerate(queries) if query.excerpt),
        key=lambda i: draw(seed, "cloze", queries[i].query_id),
    )
    chosen = {}
    for number in numbers[:MAX_QUERIES]:
        whole = texts[queries[number].row]
        rest = remove_sentence(whole, queries[number].excerpt)
        if rest != whole:
            chosen[number] = rest
    return dict(sorted(chosen.items()))


def cloze_ndcg(
    queries: Sequence[Query],
    shortened: dict[int, str],
    candidates: Candidates,
    bm25: Bm25,
    model: DenseModel,
    *,
    lexical: int,
    dense: int,
) -> np.ndarray:
    """nDCG@10 by weight, float64 [len(WEIGHTS), number of `shortened`].

    Args:
      queries: Q.
      shortened: as `cloze_queries` made it.
      candidates: of the Q queries.
      bm25: scores the shortened passages.
      model: embeds them.
      lexical: which of the retrievers BM25 is.
      dense: which of them the model is.
    """
    numbers = np.array(list(shortened), np.int64)
    texts = [queries[i].text for i in numbers]
    rest = list(shortened.values())
    some = candidates.take(numbers)
    is_own = some.rows == np.array([queries[i].row for i in numbers])[:, None]
    scores = some.scores.copy()
    of_rest = np.einsum("nd,nd->n", model.embed(texts, "query"), model.embed(rest, "passage"))
    for number, values in ((lexical, bm25.pair_scores(texts, rest)), (dense, of_rest)):
        scores[:, number] = np.where(is_own, values[:, None], scores[:, number])
    z = z_scores(scores, some.moments)
    padding = some.rows < 0
    return ndcg_by_weight(z[:, lexical], z[:, dense], padding, is_own.astype(np.float64))


def judged_ndcg(
    queries: Sequence[Query], candidates: Candidates, *, lexical: int, dense: int
) -> np.ndarray:
    """nDCG@10 by weight of queries with judgments; arguments as of `cloze_ndcg`, of these alone."""
    gains = np.zeros(candidates.rows.shape)
    for number, query in enumerate(queries):
        for row, grade in query.relevant.items():
            gains[number, candidates.rows[number] == row] = grade
    z = z_scores(candidates.scores, candidates.moments)
    return ndcg_by_weight(z[:, lexical], z[:, dense], candidates.rows < 0, gains)
