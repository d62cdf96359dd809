"""Queries that people wrote and judged: the training split of the collection."""

from collections import Counter

from data_prep.corpora.passages import Roles, doc_ids_where
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Collected, Query
from ldx.eval import beir


def human_queries(workspace: Workspace, roles: Roles, split: str, query_type: str) -> Collected:
    """The judged queries of a split of the collection.

    Held-out passages are left out, and a near-duplicate is replaced by the passage that contains
    it. Queries without a relevant passage after that are dropped and counted.

    Args:
      workspace: the workspace of the run.
      roles: the roles of the passages.
      split: the split of the qrels.
      query_type: the type that the queries get.
    """
    qrels = beir.read_qrels(beir.find_qrels(workspace.dataset, split))
    texts = beir.read_queries(workspace.dataset)
    judged = {doc_id for grades in qrels.values() for doc_id in grades}
    judged_passages = doc_ids_where(workspace.corpus_records, judged)
    held_by = {
        doc_id: int(roles.container[row]) if roles.duplicate[row] else row
        for row, doc_id in judged_passages
    }
    row_of = {d: row for d, row in held_by.items() if row >= 0 and not roles.held_out[row]}
    queries, dropped = [], Counter[str]()
    for query_id, grades in qrels.items():
        if query_id not in texts:
            dropped[f"{query_type}: not in the queries file"] += 1
            continue
        relevant: dict[int, int] = {}
        for doc_id, grade in grades.items():
            if grade > 0 and doc_id in row_of:
                row = row_of[doc_id]
                relevant[row] = max(grade, relevant.get(row, 0))
        others = {row_of[doc_id] for doc_id in grades if doc_id in row_of} - set(relevant)
        if not relevant:
            dropped[f"{query_type}: no relevant passage"] += 1
            continue
        best = max(relevant.values())
        best_row = min(row for row, grade in relevant.items() if grade == best)
        group = next(d for d in grades if row_of.get(d) == best_row)
        queries.append(
            Query(
                query_id,
                query_type,
                texts[query_id],
                -1,
                "",
                relevant,
                group,
                irrelevant=sorted(others),
            )
        )
    return Collected(queries, dropped)
