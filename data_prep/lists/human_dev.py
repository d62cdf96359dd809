"""Lists of people's dev queries, made of their judgments and the retrievers' order alone.

Nothing is trained on them, so no teacher scores them: lists of scored passages alone would lack
judged passages, which dev nDCG has to count in its best ranking.
"""

from collections.abc import Mapping

import numpy as np

from data_prep.lists.prepared import UNJUDGED, Entry, TypeLists, labelled_lists
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import shards_of_type
from data_prep.retrieval.candidates import Candidates, candidate_paths
from ldx.records.schema import HUMAN_DEV

ENTRIES = 20  # of a list, unless it has more that are judged
LEAST_OTHERS = 10  # entries of a list that nobody judged


def human_dev_entries(judged: Mapping[int, int], mined: np.ndarray) -> list[Entry]:
    """All judged passages of a query, highest grade first, then those nobody judged.

    Dev nDCG is measured among the entries of a list, so the list holds the hardest other passages
    too: as many as fill it up to ENTRIES, and LEAST_OTHERS at least.

    Args:
      judged: the query's grades by row.
      mined: the rows that retrievers found for it, best first.
    """
    entries = [Entry(row, grade) for row, grade in judged.items()]
    entries.sort(key=lambda entry: -entry.label)
    others = [row for row in mined.tolist() if row not in judged]
    num_others = max(ENTRIES - len(entries), LEAST_OTHERS)
    return entries + [Entry(row, UNJUDGED) for row in others[:num_others]]


def human_dev_lists(workspace: Workspace) -> TypeLists:
    """The lists of all people's dev queries; there must be at least one such query.

    Where nothing was mined, as for lists of judged passages alone, they hold judged passages only.
    """
    is_mined = "mine" in stages_of(workspace.settings)
    paths = candidate_paths(workspace) if is_mined else {}
    numbers: list[int] = []
    lists: list[list[Entry]] = []
    for part in shards_of_type(workspace, HUMAN_DEV):
        candidates = Candidates.load(paths[part.name]) if is_mined else None
        for place, query in enumerate(part.queries):
            mined = np.zeros(0, np.int64)
            if candidates is not None:
                mined, _ = candidates.of_query(place, query.never_negative)
            lists.append(human_dev_entries(query.judged, mined))
        numbers += part.numbers
    num_queries = len(numbers)
    facts = {"yields": {"queries": num_queries, "lists": num_queries}}
    return TypeLists(labelled_lists(numbers, lists), num_queries, facts)
