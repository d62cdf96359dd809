"""Retrieval on a collection: from a model or embeddings to a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from ldx.common.types import IndexKind
from ldx.eval.beir import CorpusTexts, Dataset
from ldx.eval.metrics import DEPTH, Run
from ldx.eval.report import Facts
from ldx.models.student import Student
from ldx.models.towers import Towers
from ldx.retrieval.embeddings_file import encode_to_file
from ldx.retrieval.encoder import Encoder, get_encoder
from ldx.retrieval.search import search
from ldx.retrieval.store import EmbeddingStore

CACHE_NAME = ".embeddings"
"""The folder of the corpus' embeddings, until a run is written."""
DEFAULT_TEMPLATE = "{title} {text}"
SAME_TEXT_FRACTION = 0.95


def queries_are_passages(dataset: Dataset) -> bool:
    """Whether queries are passages of the corpus themselves, under the same id (as in ArguAna).

    Equal ids alone are chance: nearly all of the shared ids must have equal texts.
    """
    rows = {doc_id: row for row, doc_id in enumerate(dataset.corpus.doc_ids)}
    shared = [query_id for query_id in dataset.queries if query_id in rows]
    num_equal = 0
    for query_id in shared:
        title, text = dataset.corpus.titles[rows[query_id]], dataset.corpus.texts[rows[query_id]]
        query = dataset.queries[query_id].split()
        num_equal += query in (text.split(), f"{title} {text}".split())
    return bool(shared) and num_equal >= SAME_TEXT_FRACTION * len(shared)


def excludes_self(dataset: Dataset, requested: bool = False) -> bool:
    """Whether passages with the id of their query are removed from results.

    They are on request, and where `queries_are_passages`.
    """
    if requested:
        return True
    detected = queries_are_passages(dataset)
    if detected:
        logging.info(
            "%s: queries are passages of the corpus; each one's own passage is removed",
            dataset.root,
        )
    return detected


def drop_self(run: Run) -> Run:
    """A run without the passages that have the id of their query."""
    return {
        query_id: {doc_id: score for doc_id, score in scores.items() if doc_id != query_id}
        for query_id, scores in run.items()
    }


def evaluate_embeddings(
    dataset: Dataset,
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    *,
    index: str = "auto",
    k: int = DEPTH,
    exclude_self: bool = False,
) -> tuple[Run, Facts]:
    """Search the corpus for every query of the dataset.

    Args:
      dataset: its queries and passages, in their order, are what was embedded.
      query_embeddings: float32 [Q, D].
      passage_embeddings: float32 [N, D].
      index: of `search`, but "auto" is exact: an index finds more of one model's best passages
        than of another's, and what is measured are models.
      k: results a query.
      exclude_self: whether to remove the passage that has the id of the query.

    Returns:
      The run, and the facts index and recall_of_index.
    """
    index = IndexKind.EXACT if index == IndexKind.AUTO else index
    result = search(query_embeddings, passage_embeddings, k + exclude_self, index)
    doc_ids = dataset.corpus.doc_ids
    run: Run = {}
    for i, query_id in enumerate(dataset.queries):
        row_scores = zip(result.rows[i].tolist(), result.scores[i].tolist(), strict=True)
        scores = {doc_ids[row]: score for row, score in row_scores}
        if exclude_self:
            scores.pop(query_id, None)
        run[query_id] = dict(list(scores.items())[:k])
    recall = 1.0 if result.recall is None else result.recall
    return run, {"index": result.index, "recall_of_index": recall}


def embed_passages(
    encoder: Encoder,
    towers: Towers,
    texts: CorpusTexts,
    *,
    path: Path | None = None,
    description: str = "passages",
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Embeddings float32 [N, D] of a corpus by the tower of passages, its map included.

    Args:
      encoder: of the student.
      towers: its parameters.
      texts: the passages.
      path: the file that keeps the embeddings as they are before the map, for every model that has
        this tower; None keeps them in memory.
      description: shown beside the progress bar.
      check: called between micro-batches; what it raises ends the work.
    """
    params = towers.passage
    if path is None:
        embeddings = encoder.encode(
            params, texts, kind="passage", description=description, check=check
        )
    else:
        embeddings = encode_to_file(
            encoder,
            params,
            texts,
            path,
            kind="passage",
            key=texts.fingerprint,
            description=description,
            check=check,
        )
    return towers.map_passages(embeddings, unit_norm=encoder.student.config.normalize)


def retrieve(
    dataset: Dataset,
    student: Student,
    towers: Towers,
    *,
    index: str = "auto",
    k: int = DEPTH,
    exclude_self: bool = False,
    template: str = DEFAULT_TEMPLATE,
    microbatch_tokens: int | None = None,
    store: EmbeddingStore | None = None,
    cache: Path | None = None,
    passages: np.ndarray | None = None,
    description: str = "",
    check: Callable[[], None] = lambda: None,
) -> tuple[Run, Facts]:
    """Embed queries and passages of a dataset and search; the result of `evaluate_embeddings`.

    Args:
      dataset: what to search.
      student: the model.
      towers: its parameters.
      index: of `evaluate_embeddings`.
      k: results a query.
      exclude_self: whether to remove the passage that has the id of the query; where
        `queries_are_passages` it is removed in any case.
      template: joins title and text.
      microbatch_tokens: tokens in work at once; None means the device's default.
      store: where embeddings are looked up and kept.
      cache: a folder for the passages' embeddings, from which the work goes on after a kill. The
        caller removes it once the run is written. None keeps the embeddings in memory.
      passages: the passages' embeddings, where they are there already.
      description: goes before "passages" and "queries" at the progress bars.
      check: called between micro-batches; what it raises ends the work.
    """
    encoder = get_encoder(student, microbatch_tokens, store)
    if passages is None:
        passages = embed_passages(
            encoder,
            towers,
            CorpusTexts(dataset.corpus, template),
            path=cache and cache / "passages.npy",
            description=f"{description} passages".strip(),
            check=check,
        )
    queries = encoder.encode(
        towers.query,
        list(dataset.queries.values()),
        kind="query",
        description=f"{description} queries".strip(),
        check=check,
    )
    return evaluate_embeddings(
        dataset,
        queries,
        passages,
        index=index,
        k=k,
        exclude_self=excludes_self(dataset, exclude_self),
    )
