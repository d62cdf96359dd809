"""Lists of people's dev queries, by their judgments and the retrievers' order alone.

They teach nothing, so no teacher is asked about them: a passage without a teacher's score would be
missing from what dev nDCG calls the best ranking.
"""

from collections.abc import Mapping

import numpy as np

from data_prep.lists.prepared import UNJUDGED, Entry, TypeLists, labelled_lists
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import shards_of_type
from data_prep.retrieval.candidates import Candidates, candidate_paths
from ldx.records.schema import HUMAN_DEV

ENTRIES = 20
LEAST_OTHERS = 10


def human_dev_entries(judged: Mapping[int, int], mined: np.ndarray) -> list[Entry]:
    """All judged passages of a query, highest grade first, then those nobody judged.

    Dev nDCG is measured in the passages of its lists, so they hold the hardest others too: as many
    as fill a list up to ENTRIES, LEAST_OTHERS at least.

    Args:
      judged: grades by row.
      mined: rows that retrievers found, best first.
    """
    entries = [Entry(row, grade) for row, grade in judged.items()]
    entries.sort(key=lambda entry: -entry.label)
    others = [row for row in mined.tolist() if row not in judged]
    num_others = max(ENTRIES - len(entries), LEAST_OTHERS)
    return entries + [Entry(row, UNJUDGED) for row in others[:num_others]]


def human_dev_lists(workspace: Workspace) -> TypeLists:
    """The lists of all people's dev queries, of which there must be some.

    Where no retriever was asked, as for lists of judged passages alone, they hold no others.
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
                mined, _ = candidates.found(place, query.never_negative)
            lists.append(human_dev_entries(query.judged, mined))
        numbers += part.numbers
    num_queries = len(numbers)
    facts = {"yields": {"queries": num_queries, "lists": num_queries}}
    return TypeLists(labelled_lists(numbers, lists), num_queries, facts)
