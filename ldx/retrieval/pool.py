"""nDCG@10 of dev lists whose queries are searched in a pool of passages.

Shapes: Q queries, P passages of the pool, D dimensions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ldx.data.lists import ListTable
from ldx.eval.metrics import METRIC, score_run
from ldx.retrieval.search import search

NUM_RESULTS = 10  # what nDCG@10 sees


def relevant_passages(table: ListTable, number: int) -> dict[str, int]:
    """Grades, by row, of the passages that are relevant to the query of a list.

    These are the entries with a label over 0, and entry 0 whatever its label.
    """
    size = table.sizes[number]
    rows, labels = table.rows[number, :size].tolist(), table.labels[number, :size].tolist()
    relevant = {str(row): label for row, label in zip(rows, labels, strict=True) if label > 0}
    relevant.setdefault(str(rows[0]), 1)
    return relevant


def ndcg_in_pool(
    qrels: Mapping[str, Mapping[str, int]],
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    rows: Sequence[int] | np.ndarray,
) -> dict[str, float]:
    """nDCG@10 of every query among the passages of a pool.

    Args:
      qrels: grades by list id and row, as of `relevant_passages`.
      query_embeddings: float32 [Q, D], in the order of `qrels`.
      passage_embeddings: float32 [P, D].
      rows: the rows of these passages in the passage set, [P].
    """
    result = search(query_embeddings, passage_embeddings, k=NUM_RESULTS, index="exact")
    run = {
        list_id: {
            str(rows[place]): float(score)
            for place, score in zip(result.rows[i], result.scores[i], strict=True)
        }
        for i, list_id in enumerate(qrels)
    }
    return score_run(qrels, run, metrics=(METRIC,)).per_query[METRIC]
