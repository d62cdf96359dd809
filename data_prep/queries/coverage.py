"""A choice of queries whose passages are covered evenly."""

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.corpora.passages import Passages
from data_prep.pipeline.draws import draw
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query
from data_prep.retrieval.fusion import top_rows
from data_prep.retrieval.retrievers import corpus_bm25
from ldx.common.progress import progress_bar

REACHED = 10  # the passages that a query reaches: BM25's best
MOST_WEIGHED = 20  # so many times the number that is wanted is looked at, drawn by count


def sample_evenly(
    workspace: Workspace,
    passages: Passages,
    queries: Sequence[Query],
    counts: Mapping[str, int],
    number: int,
) -> list[Query]:
    """At most `number` of the queries, chosen so that they reach the passages evenly.

    Args:
      workspace: the workspace of the run.
      passages: the passages that BM25 searches.
      queries: the queries to choose from.
      counts: how often each was typed, by query_id.
      number: how many to choose.
    """
    seed = workspace.config.seed
    draws = {query.query_id: draw(seed, "coverage", query.text) for query in queries}

    def turn(query: Query) -> float:
        """The place of a query in a random order in which frequent queries come early."""
        return -math.log(1 - draws[query.query_id]) / counts[query.query_id]

    queries = sorted(queries, key=turn)[: MOST_WEIGHED * number]
    index = corpus_bm25(workspace, passages)
    excluded, reached = passages.roles.excluded, []
    matched = index.match_all([query.text for query in queries])
    for matches in progress_bar(matched, total=len(queries), desc="coverage", unit=" queries"):
        searched = ~excluded[matches.rows]
        reached.append(top_rows(matches.rows[searched], matches.scores[searched], REACHED))
    weights = [math.log2(1 + counts[query.query_id]) for query in queries]
    places = choose_evenly(reached, weights, number)
    return [queries[place] for place in places]


def choose_evenly(
    reached: Sequence[np.ndarray], weights: Sequence[float], number: int
) -> list[int]:
    """Places of `number` queries, one after the other the one that is worth most.

    A query is worth its weight times Σ 1 / (1 + n) over its passages, where n is how many queries
    that are chosen already reach the passage. Of queries worth the same the first is taken.

    Args:
      reached: the rows of the passages that each query reaches.
      weights: how much each query counts.
      number: how many to choose.
    """
    times: Counter[int] = Counter()
    rows = [each.tolist() for each in reached]

    def worth(place: int) -> float:
        return weights[place] * math.fsum(1 / (1 + times[row]) for row in rows[place])

    # A worth only ever falls, so the first of the heap is the best once its worth is up to date.
    heap = [(-worth(place), place) for place in range(len(rows))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < number:
        old, place = heap[0]
        if (new := -worth(place)) > old:
            heapq.heapreplace(heap, (new, place))
            continue
        heapq.heappop(heap)
        chosen.append(place)
        times.update(rows[place])
    return chosen
