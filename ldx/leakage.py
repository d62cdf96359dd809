"""What training lists share with what is measured: test queries, and passages judged for them.

Passages that were judged are no leak of themselves: the corpus is given, and its passages are
trained on. Their judgments are, when a list of a test query's words carries them.
"""

import re
from dataclasses import dataclass

import numpy as np

from ldx.data.records import PassageSource
from ldx.data.sources import Source
from ldx.eval.beir import Dataset


@dataclass(frozen=True)
class Leakage:
    """Counts, of one source.

    Attributes:
      num_lists: training lists.
      num_queries: test queries.
      lists_with_test_query: lists whose query has the words of a test query.
      judgments_in_lists: (query, relevant passage) pairs of the test that such lists hold.
      judged_passages: passages that are relevant to a test query.
      judged_in_lists: those of them that stand in a training list.
      judged_as_positives: those of them that are the first entry of one.
    """

    num_lists: int
    num_queries: int
    lists_with_test_query: int
    judgments_in_lists: int
    judged_passages: int
    judged_in_lists: int
    judged_as_positives: int

    @property
    def text(self) -> str:
        """A sentence with the counts."""
        return (
            f"{self.lists_with_test_query} of {self.num_lists} training lists have the words of "
            f"one of {self.num_queries} test queries, and {self.judgments_in_lists} judgments of "
            f"the test stand in them; of {self.judged_passages} passages relevant to the test, "
            f"{self.judged_in_lists} stand in training lists, {self.judged_as_positives} as the "
            "positive"
        )


def find_leakage(source: Source, dataset: Dataset) -> Leakage:
    """Compare the training lists of a source with the test of its collection."""
    table, passages = source.train, PassageSource(source.config.records)
    rows = np.unique(table.rows[table.where]).tolist()
    doc_ids = {row: passages[row].doc_id for row in rows}
    relevant = {q: {d for d, g in docs.items() if g > 0} for q, docs in dataset.qrels.items()}
    by_words: dict[str, list[str]] = {}
    for query_id, text in dataset.queries.items():
        by_words.setdefault(words(text), []).append(query_id)
    same = [by_words.get(words(text), []) for text in source.query_texts]
    lists_of_test = [
        (i, ids) for i, query in enumerate(table.query.tolist()) if (ids := same[query])
    ]
    num_judgments = 0
    for i, query_ids in lists_of_test:
        held = {doc_ids[row] for row in table.rows[i, : table.sizes[i]].tolist()}
        num_judgments += sum(len(held & relevant[query_id]) for query_id in query_ids)
    judged = set().union(*relevant.values())
    return Leakage(
        num_lists=len(table),
        num_queries=len(dataset.queries),
        lists_with_test_query=len(lists_of_test),
        judgments_in_lists=num_judgments,
        judged_passages=len(judged),
        judged_in_lists=len(judged & set(doc_ids.values())),
        judged_as_positives=len(judged & {doc_ids[row] for row in table.rows[:, 0].tolist()}),
    )


def words(text: str) -> str:
    """Lower case, words only: what two queries are compared by."""
    return " ".join(re.findall(r"\w+", text.lower()))
