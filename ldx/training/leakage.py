"""What training lists share with what is measured: test queries, and passages judged for them.

Passages that were judged are no leak of themselves: the corpus is given, and its passages are
trained on. Their judgments are, when a list of a test query's words carries them. What is found is
told before training and kept in WORKDIR/leakage.json; a run that goes on reads it there.
"""

import json
import re
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import logging

from ldx.common.files import fingerprint, read_json, write_json
from ldx.data.sources import Source
from ldx.eval.beir import Dataset
from ldx.records.sets import PassageSet

LEAKAGE_NAME = "leakage.json"
OF = "fingerprint"  # beside the counts of a source: of the lists and the test that they are of


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


def report_leakage(
    workdir: Path,
    sources: Mapping[str, Source],
    datasets: Mapping[str, Dataset],
    relevance_level: int,
) -> None:
    """Say what training lists share with the test, in WORKDIR/leakage.json too.

    What that file says of the same lists and test is not counted again.

    Args:
      workdir: of the run.
      sources: by name.
      datasets: their tests; a source may have none.
      relevance_level: the least grade that is relevant.
    """
    path = workdir / LEAKAGE_NAME
    before = read_json(path) if path.is_file() else {}
    told = {}
    for name, dataset in datasets.items():
        source = sources[name]
        told[name] = before.get(name, {})
        key = _fingerprint(source, dataset, relevance_level)
        if told[name].get(OF) != key:
            told[name] = asdict(find_leakage(source, dataset, relevance_level)) | {OF: key}
    write_json(path, told)
    for name, found in read_leakage(workdir).items():
        log = logging.warning if found.lists_with_test_query else logging.info
        log("%s", f"{name}: {found.text}" if name else found.text)


def read_leakage(workdir: Path) -> dict[str, Leakage]:
    """What was found before training, by source; nothing of runs that did not look."""
    path = workdir / LEAKAGE_NAME
    told = read_json(path) if path.is_file() else {}
    return {
        name: Leakage(**{key: value for key, value in counts.items() if key != OF})
        for name, counts in told.items()
    }


def _fingerprint(source: Source, dataset: Dataset, relevance_level: int) -> str:
    """Differs where anything does that is counted."""
    test = json.dumps([dataset.queries, dataset.qrels, relevance_level])
    cut = str(source.train.list_size)
    return fingerprint(test, cut, *(f"{k} {v}" for k, v in source.manifest.fingerprints.items()))


def find_leakage(source: Source, dataset: Dataset, relevance_level: int) -> Leakage:
    """Compare the training lists of a source with the test of its collection.

    Args:
      source: with its training lists.
      dataset: the test.
      relevance_level: the least grade that is relevant.
    """
    table = source.train
    relevant = {
        query_id: {doc_id for doc_id, grade in docs.items() if grade >= relevance_level}
        for query_id, docs in dataset.qrels.items()
    }
    judged = set().union(*relevant.values())
    listed = np.unique(table.rows[table.where])
    doc_ids = _judged_rows(source, dataset, judged, listed)
    by_words: dict[str, list[str]] = {}
    for query_id, text in dataset.queries.items():
        by_words.setdefault(words(text), []).append(query_id)
    same = [by_words.get(words(text), []) for text in source.query_texts]
    lists_of_test = [
        (i, ids) for i, query in enumerate(table.query.tolist()) if (ids := same[query])
    ]
    num_judgments = 0
    for i, query_ids in lists_of_test:
        held = _doc_ids(doc_ids, table.rows[i, : table.sizes[i]])
        num_judgments += sum(len(held & relevant[query_id]) for query_id in query_ids)
    return Leakage(
        num_lists=len(table),
        num_queries=len(dataset.queries),
        lists_with_test_query=len(lists_of_test),
        judgments_in_lists=num_judgments,
        judged_passages=len(judged),
        judged_in_lists=len(_doc_ids(doc_ids, listed)),
        judged_as_positives=len(_doc_ids(doc_ids, table.rows[:, 0])),
    )


def _doc_ids(doc_ids: Mapping[int, str], rows: np.ndarray) -> set[str]:
    return {doc_ids[row] for row in rows.tolist() if row in doc_ids}


def _judged_rows(
    source: Source, dataset: Dataset, judged: Set[str], listed: np.ndarray
) -> dict[int, str]:
    """The doc_id of every row that lists may hold and that the test judges."""
    passages, manifest = PassageSet(source.config.records), source.manifest
    corpus = dataset.corpus.doc_ids
    # Records are mostly of this very collection, in its order: then it tells where the judged ones
    # are, and they alone are read, not all that stand in lists.
    if len(corpus) == manifest.num_passages - manifest.num_synthetic_passages:
        places = {row: doc_id for row, doc_id in enumerate(corpus) if doc_id in judged}
        same = (passages[row].doc_id == doc_id for row, doc_id in places.items())
        if len(places) == len(judged) and all(same):
            return places
    found = {row: passages[row].doc_id for row in listed.tolist()}
    return {row: doc_id for row, doc_id in found.items() if doc_id in judged}


def words(text: str) -> str:
    """Lower case, words only: what two queries are compared by."""
    return " ".join(re.findall(r"\w+", text.lower()))
