"""Lists of people's dev queries, by their judgments and the retrievers' order alone.

They teach nothing, so no teacher is asked about them: a passage without a teacher's score would be
missing from what dev nDCG calls the best ranking.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.lists.prepared import NEW_LIST, UNJUDGED, Entry, Lists, labelled_lists
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import query_shards
from data_prep.retrieval.candidates import Candidates, candidate_paths
from ldx.records.schema import HUMAN_DEV

ENTRIES = 20
LEAST_OTHERS = 10


def human_dev_entries(judged: Mapping[int, int], found: np.ndarray) -> list[Entry]:
    """All judged passages of a query, highest grade first, then those nobody judged.

    Dev nDCG is measured in the passages of its lists, so they hold the hardest others too: as many
    as fill a list up to ENTRIES, LEAST_OTHERS at least.

    Args:
      judged: grades by row.
      found: rows that retrievers found, best first.
    """
    entries = sorted(judged.items(), key=lambda entry: -entry[1])
    others = [row for row in found.tolist() if row not in judged]
    num_others = max(ENTRIES - len(entries), LEAST_OTHERS)
    return entries + [(row, UNJUDGED) for row in others[:num_others]]


def human_dev_lists(workspace: Workspace) -> tuple[Lists, dict[str, Any]]:
    """The lists of all people's dev queries, of which there must be some, and what is reported.

    Where no retriever was asked, as for lists of judged passages alone, they hold no others.
    """
    parts = [p for p in query_shards(workspace) if p.queries[0].query_type == HUMAN_DEV]
    is_mined = "mine" in stages_of(workspace.settings)
    paths = candidate_paths(workspace) if is_mined else {}
    numbers: list[int] = []
    lists: list[list[Entry]] = []
    for part in parts:
        candidates = Candidates.load(paths[part.name]) if is_mined else None
        for place, query in enumerate(part.queries):
            found = np.zeros(0, np.int64)
            if candidates is not None:
                found, _ = candidates.found(place, query.never_negative)
            lists.append(human_dev_entries(query.judged, found))
        numbers += part.numbers
    facts = {"yields": {"queries": len(numbers), NEW_LIST: len(numbers)}}
    return labelled_lists(numbers, lists), facts
