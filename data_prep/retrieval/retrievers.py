"""Retrievers that candidates are mined with: BM25, and any dense model that ldx can train.

Q queries, N passages, D dimensions.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.corpora.passages import Passages, doc_ids_where
from data_prep.pipeline.workspace import Workspace
from data_prep.retrieval.bm25 import Bm25, Matches
from data_prep.retrieval.dense import DenseModel, model_fingerprint
from data_prep.retrieval.fusion import Retrieved, top_rows
from data_prep.retrieval.run_table import read_run_table
from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.common.sections import check_keys
from ldx.retrieval.search import Searcher

EMBEDDINGS_AT_ONCE = 65_536  # embeddings in memory at once


class RetrieverKind(enum.StrEnum):
    """What `kind` may be in a section of `config.prep.retrievers`."""

    BM25 = "bm25"
    RUN = "run"
    DENSE = "dense"


class Retriever(Protocol):
    """Finds passages for queries."""

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> Iterable[Retrieved]:
        """What it says of each query, one after the other."""


class Bm25Retriever:
    """BM25; passages that share no word with the query are not ranked."""

    def __init__(self, passages: Passages, folder: Path, depth: int):
        self._index = Bm25.open_or_build(folder / "bm25", passages.texts, key=passages.key)
        self._excluded, self._depth = passages.roles.excluded, depth

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> Iterator[Retrieved]:
        """What it says of each query; of one at a time, for a query may match every passage."""
        for matches in self._index.match_all(queries):
            kept = ~self._excluded[matches.rows]
            ranking = top_rows(matches.rows[kept], matches.scores[kept], self._depth)
            moments = matches.moments(self._index.num_passages)
            yield Retrieved(ranking, matches.scores_of, moments)


class DenseRetriever:
    """A bi-encoder: exact search, or ScaNN's.

    Args:
      model: which embeds.
      passages: those searched.
      folder: where their embeddings are, or are made.
      depth: passages found for a query.
      index: as for `ldx.retrieval.search.Searcher`.
      sample_queries: texts, of which ScaNN's recall is measured.
    """

    def __init__(
        self,
        model: DenseModel,
        passages: Passages,
        folder: Path,
        depth: int,
        index: str,
        sample_queries: Sequence[str],
    ):
        self._model = model
        self._embeddings = model.embed_to_file(
            folder, "passages", passages.texts, "passage", passages.key
        )
        self._searcher = Searcher(
            self._embeddings,
            depth,
            index,
            sample_queries=model.embed(sample_queries, "query"),
            excluded=passages.roles.excluded,
        )
        self._mean, self._second = second_moments(self._embeddings)

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> list[Retrieved]:
        """What it says of each query."""
        embeddings = self._model.embed(queries, "query")
        rows = self._searcher.search(embeddings).rows
        exact = embeddings.astype(np.float64)
        means = exact @ self._mean
        squares = np.einsum("qd,de,qe->q", exact, self._second, exact)
        deviations = np.sqrt(np.maximum(0.0, squares - means**2))

        def scorer(query: np.ndarray):  # type: ignore[no-untyped-def]
            return lambda rows: np.asarray(self._embeddings[rows], np.float32) @ query

        return [
            Retrieved(rows[i], scorer(embeddings[i]), (float(means[i]), float(deviations[i])))
            for i in range(len(queries))
        ]


class RunRetriever:
    """A run of somebody's retriever, in a file.

    Args:
      path: of the file; see `data_prep.retrieval.run_table.read_run_table`.
      records: where the passages are, for their doc_ids.
      passages: those searched.
      depth: passages found for a query.
    """

    def __init__(self, path: str, records: Path, passages: Passages, depth: int):
        self._run = read_run_table(Path(path).expanduser())
        row_of = {doc_id: row for row, doc_id in doc_ids_where(records, set(self._run.passages))}
        self._rows = np.array([row_of.get(doc_id, -1) for doc_id in self._run.passages], np.int64)
        self._excluded, self._depth = passages.roles.excluded, depth

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> list[Retrieved]:
        """What it says of each query; a passage that the run lacks scores 0."""
        found = []
        for query_id in query_ids:
            places, scores = self._run.of_query(query_id)
            rows = self._rows[places]
            order = np.argsort(rows)[(np.sort(rows) < 0).sum() :]
            matches = Matches(rows[order], scores[order])
            kept = ~self._excluded[matches.rows]
            ranking = top_rows(matches.rows[kept], matches.scores[kept], self._depth)
            found.append(Retrieved(ranking, matches.scores_of, (0.0, 0.0)))
        return found


def second_moments(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[x], float64 [D], and E[x xᵀ], float64 [D, D], over all passages.

    From these come mean and variance over the corpus of any query's dot products: q · E[x], and
    qᵀ E[x xᵀ] q − (q · E[x])².
    """
    size = embeddings.shape[1]
    total, products = np.zeros(size), np.zeros((size, size))
    for start in range(0, len(embeddings), EMBEDDINGS_AT_ONCE):
        block = np.asarray(embeddings[start : start + EMBEDDINGS_AT_ONCE], np.float64)
        total += block.sum(axis=0)
        products += block.T @ block
    return total / len(embeddings), products / len(embeddings)


@dataclass(frozen=True)
class RetrieverSection:
    """A section of `config.prep.retrievers`.

    Attributes:
      kind: of retriever.
      settings: its other keys; of a dense retriever the keys of a whole `config.model`.
    """

    kind: RetrieverKind
    settings: dict[str, Any]

    def fingerprint(self) -> str:
        """A hash of what decides its scores, or its name where its texts alone do."""
        if self.kind is RetrieverKind.DENSE:
            return model_fingerprint(self.settings)
        if self.kind is RetrieverKind.RUN:
            return fingerprint(Path(self.settings["path"]))
        return self.kind.value


def retriever_sections(
    retrievers: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any]
) -> dict[str, RetrieverSection]:
    """The checked sections of `config.prep.retrievers`, by name.

    What the section of a dense retriever leaves out is the student's; of another model, pooling,
    normalisation and prompts are as its folder declares.

    Args:
      retrievers: the sections.
      model: the section `config.model`.

    Raises:
      UserError: an unknown kind or key.
    """
    known = {
        RetrieverKind.BM25: [],
        RetrieverKind.RUN: ["path"],
        RetrieverKind.DENSE: list(model),
    }
    sections: dict[str, RetrieverSection] = {}
    for name, section in retrievers.items():
        where = f"prep.retrievers.{name}"
        if section.get("kind") not in list(RetrieverKind):
            raise UserError(
                f"config.{where}.kind={section.get('kind')!r}: known are {', '.join(RetrieverKind)}"
            )
        kind = RetrieverKind(section["kind"])
        settings = {key: value for key, value in section.items() if key != "kind"}
        check_keys(settings, known[kind], where)
        if kind is RetrieverKind.RUN and not settings.get("path"):
            raise UserError(f"config.{where}.path is missing: the run file")
        if kind is RetrieverKind.DENSE:
            declared = ("pooling", "normalize", "query_prompt", "passage_prompt")
            other = settings.get("path", model["path"]) != model["path"]
            base = {k: None if other and k in declared else v for k, v in model.items()}
            settings = base | settings
        sections[name] = RetrieverSection(kind, settings)
    return sections


def workspace_retrievers(workspace: Workspace) -> dict[str, RetrieverSection]:
    """The checked sections of a workspace's retrievers, by name."""
    return retriever_sections(workspace.settings.retrievers, workspace.config.model.to_dict())


def dense_model(workspace: Workspace, name: str) -> DenseModel:
    """The model of a dense retriever, loaded."""
    section = workspace_retrievers(workspace)[name]
    return DenseModel(name, section.settings, workspace.config.train.microbatch_tokens)


def open_retrievers(
    workspace: Workspace, passages: Passages, sample_queries: Sequence[str]
) -> dict[str, Retriever]:
    """The retrievers of `config.prep.retrievers` by name; what they need is made if missing."""
    settings, folder = workspace.settings, workspace.prep
    depth = settings.candidate_depth
    retrievers: dict[str, Retriever] = {}
    for name, section in workspace_retrievers(workspace).items():
        if section.kind is RetrieverKind.BM25:
            retrievers[name] = Bm25Retriever(passages, folder, depth)
        elif section.kind is RetrieverKind.RUN:
            path = section.settings["path"]
            retrievers[name] = RunRetriever(path, workspace.corpus_records, passages, depth)
        else:
            model = dense_model(workspace, name)
            retrievers[name] = DenseRetriever(
                model, passages, folder, depth, settings.index, sample_queries
            )
    return retrievers
