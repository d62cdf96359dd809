"""What training lists share with the test: its queries, and the passages judged for them.

A judged passage in a training list is no leak by itself, because the corpus is known and its
passages are trained on. A judgment leaks where the query of a training list has the words of a test
query and the list holds a passage that is relevant to it. The counts are logged before training and
kept in WORKDIR/leakage.json, where a run that goes on reads them.
"""

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import logging

from ldx.common.files import fingerprint, read_json, write_json
from ldx.common.texts import only_words
from ldx.data.sources import Source
from ldx.eval.beir import Dataset
from ldx.records.sets import PassageSet

LEAKAGE_NAME = "leakage.json"
FINGERPRINT = "fingerprint"  # the key, beside the counts, of a hash of what was counted


@dataclass(frozen=True)
class Leakage:
    """What the training lists of one source share with its test, in numbers.

    Attributes:
      num_lists: the number of training lists.
      num_queries: the number of test queries.
      lists_with_test_query: the lists whose query has the words of a test query.
      judgments_in_lists: the (query, relevant passage) pairs of the test that such lists hold.
      judged_passages: the passages that are relevant to a test query.
      judged_in_lists: those of them that stand in a training list.
      judged_as_positives: those of them that are the first entry of a training list.
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
        """A sentence with the counts, and whether they are a leak."""
        if self.judgments_in_lists:
            meaning = "these judgments leak, so the test flatters the model"
        else:
            meaning = "so no judgment leaks"
        return (
            f"{self.lists_with_test_query} of {self.num_lists} training lists have the words of "
            f"one of {self.num_queries} test queries, and {self.judgments_in_lists} judgments of "
            f"the test stand in them: {meaning}; of {self.judged_passages} passages relevant to "
            f"the test, {self.judged_in_lists} stand in training lists, {self.judged_as_positives} "
            "as the positive, which is no leak, for the corpus is given"
        )


def report_leakage(
    workdir: Path,
    sources: Mapping[str, Source],
    datasets: Mapping[str, Dataset],
    relevance_level: int,
) -> None:
    """Log what training lists share with the test, and keep it in WORKDIR/leakage.json.

    If the file already has counts of the same lists and test, they are not counted again.

    Args:
      workdir: the run's folder.
      sources: the sources of the run, by name.
      datasets: the test collections, by the names of the sources that have one.
      relevance_level: the least grade that is relevant.
    """
    path = workdir / LEAKAGE_NAME
    before = read_json(path) if path.is_file() else {}
    counts = {}
    for name, dataset in datasets.items():
        source = sources[name]
        counts[name] = before.get(name, {})
        key = _fingerprint(source, dataset, relevance_level)
        if counts[name].get(FINGERPRINT) != key:
            leakage = find_leakage(source, dataset, relevance_level)
            counts[name] = asdict(leakage) | {FINGERPRINT: key}
    write_json(path, counts)
    for name, leakage in read_leakage(workdir).items():
        log = logging.warning if leakage.lists_with_test_query else logging.info
        log("%s", f"{name}: {leakage.text}" if name else leakage.text)


def read_leakage(workdir: Path) -> dict[str, Leakage]:
    """The counts that a run made before training, by source; empty where it made none."""
    path = workdir / LEAKAGE_NAME
    counts = read_json(path) if path.is_file() else {}
    return {
        name: Leakage(**{key: value for key, value in of_source.items() if key != FINGERPRINT})
        for name, of_source in counts.items()
    }


def _fingerprint(source: Source, dataset: Dataset, relevance_level: int) -> str:
    """A hash that differs where anything that is counted differs."""
    test = json.dumps([dataset.queries, dataset.qrels, relevance_level])
    cut = str(source.train.list_size)
    return fingerprint(test, cut, *(f"{k} {v}" for k, v in source.manifest.fingerprints.items()))


def find_leakage(source: Source, dataset: Dataset, relevance_level: int) -> Leakage:
    """Compare the training lists of a source with the test of its collection.

    Args:
      source: the source, with its training lists.
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
        by_words.setdefault(only_words(text), []).append(query_id)
    same = [by_words.get(only_words(text), []) for text in source.query_texts]
    lists_of_test = [
        (i, ids) for i, query in enumerate(table.query.tolist()) if (ids := same[query])
    ]
    num_judgments = 0
    for i, query_ids in lists_of_test:
        entries = _doc_ids(doc_ids, table.rows[i, : table.sizes[i]])
        num_judgments += sum(len(entries & relevant[query_id]) for query_id in query_ids)
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
    # Records mostly hold this very collection in its order. Its doc_ids then give the rows of the
    # judged passages, and only these are read instead of all that stand in lists.
    if len(corpus) == manifest.num_passages - manifest.num_synthetic_passages:
        places = {row: doc_id for row, doc_id in enumerate(corpus) if doc_id in judged}
        same = (passages[row].doc_id == doc_id for row, doc_id in places.items())
        if len(places) == len(judged) and all(same):
            return places
    doc_ids = {row: passages[row].doc_id for row in listed.tolist()}
    return {row: doc_id for row, doc_id in doc_ids.items() if doc_id in judged}
