"""Retrievers that mine candidates: BM25, any dense model that ldx can train, and run files.

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
from data_prep.retrieval.bm25 import Bm25, Matches, warn_of_no_matches
from data_prep.retrieval.dense import DenseModel, model_fingerprint
from data_prep.retrieval.fusion import Retrieved, top_rows
from data_prep.retrieval.run_table import read_run_table
from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.common.sections import check_keys

EMBEDDINGS_AT_ONCE = 65_536  # embeddings in memory at once


class RetrieverKind(enum.StrEnum):
    """The kinds of retrievers: `kind` in a section of `config.prep.retrievers`."""

    BM25 = "bm25"
    RUN = "run"
    DENSE = "dense"


class Retriever(Protocol):
    """Anything that finds passages for queries."""

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> Iterable[Retrieved]:
        """The passages found for each query, one query after another."""


class Bm25Retriever:
    """BM25, which does not rank passages that share no word with the query."""

    def __init__(self, index: Bm25, passages: Passages, depth: int):
        self._index = index
        self._excluded, self._depth = passages.roles.excluded, depth

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> Iterator[Retrieved]:
        """The passages found for each query, one query at a time: one may match every passage."""
        num_without = 0
        for matches in self._index.match_all(queries):
            num_without += not len(matches.rows)
            searched = ~self._excluded[matches.rows]
            ranking = top_rows(matches.rows[searched], matches.scores[searched], self._depth)
            moments = matches.moments(self._index.num_passages)
            yield Retrieved(ranking, matches.scores_of, moments)
        warn_of_no_matches(num_without, len(queries), "queries")


class DenseRetriever:
    """A bi-encoder with exact search or ScaNN's.

    Args:
      model: the bi-encoder.
      passages: the passages to search.
      folder: holds the passages' embeddings, which are made if they are missing.
      depth: how many passages to find for a query.
      index: the kind of search, as for `ldx.retrieval.search.Searcher`.
      sample_queries: texts by which ScaNN's recall is measured.
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
        from ldx.retrieval.search import Searcher  # imports JAX

        self._searcher = Searcher(
            self._embeddings,
            depth,
            index,
            sample_queries=model.embed(sample_queries, "query"),
            excluded=passages.roles.excluded,
        )
        self._mean, self._second = second_moments(self._embeddings)

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> list[Retrieved]:
        """The passages found for each query."""
        embeddings = self._model.embed(queries, "query")
        rows = self._searcher.search(embeddings).rows
        precise = embeddings.astype(np.float64)
        means = precise @ self._mean
        squares = np.einsum("qd,de,qe->q", precise, self._second, precise)
        deviations = np.sqrt(np.maximum(0.0, squares - means**2))

        def scorer(query: np.ndarray):  # type: ignore[no-untyped-def]
            return lambda rows: np.asarray(self._embeddings[rows], np.float32) @ query

        return [
            Retrieved(rows[i], scorer(embeddings[i]), (float(means[i]), float(deviations[i])))
            for i in range(len(queries))
        ]


class RunRetriever:
    """A run of any retriever, read from a file.

    Args:
      path: the file, as `data_prep.retrieval.run_table.read_run_table` reads it.
      records: the folder of the passages, for their doc_ids.
      passages: the passages to search.
      depth: how many passages to find for a query.
    """

    def __init__(self, path: str, records: Path, passages: Passages, depth: int):
        self._run = read_run_table(Path(path).expanduser())
        row_of = {doc_id: row for row, doc_id in doc_ids_where(records, set(self._run.passages))}
        self._rows = np.array([row_of.get(doc_id, -1) for doc_id in self._run.passages], np.int64)
        self._excluded, self._depth = passages.roles.excluded, depth

    def find(self, queries: Sequence[str], query_ids: Sequence[str]) -> list[Retrieved]:
        """The passages found for each query; one that the run lacks scores 0."""
        results = []
        for query_id in query_ids:
            places, scores = self._run.of_query(query_id)
            rows = self._rows[places]
            order = np.argsort(rows)[(np.sort(rows) < 0).sum() :]
            matches = Matches(rows[order], scores[order])
            searched = ~self._excluded[matches.rows]
            ranking = top_rows(matches.rows[searched], matches.scores[searched], self._depth)
            results.append(Retrieved(ranking, matches.scores_of, (0.0, 0.0)))
        return results


def second_moments(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[x], float64 [D], and E[x xᵀ], float64 [D, D], over all passages.

    They give the mean and the variance of any query's dot products over the corpus: q · E[x], and
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
      kind: the kind of retriever.
      settings: its other keys; for a dense retriever all keys of `config.model`.
    """

    kind: RetrieverKind
    settings: dict[str, Any]

    def fingerprint(self) -> str:
        """A hash of the model or the file that scores; for BM25, which has neither, its kind."""
        if self.kind is RetrieverKind.DENSE:
            return model_fingerprint(self.settings)
        if self.kind is RetrieverKind.RUN:
            return fingerprint(Path(self.settings["path"]))
        return self.kind.value


def retriever_sections(
    retrievers: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any]
) -> dict[str, RetrieverSection]:
    """The checked sections of `config.prep.retrievers`, by name.

    What the section of a dense retriever leaves out is taken from the student's; but pooling,
    normalisation and prompts of another model are those that its folder declares.

    Args:
      retrievers: the sections of `config.prep.retrievers`.
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


def dense_model(workspace: Workspace, name: str, *, keeps_embeddings: bool = True) -> DenseModel:
    """The loaded model of a dense retriever."""
    section = workspace_retrievers(workspace)[name]
    tokens = workspace.config.train.microbatch_tokens
    workdir = workspace.workdir if keeps_embeddings else None
    return DenseModel(name, section.settings, tokens, workdir)


def corpus_bm25(workspace: Workspace, passages: Passages) -> Bm25:
    """BM25's index of the corpus, which is made if it is missing."""
    language = workspace.settings.language
    folder, key = workspace.prep / "bm25", passages.key
    return Bm25.open_or_build(folder, passages.texts, key=key, language=language)


def open_retrievers(
    workspace: Workspace, passages: Passages, sample_queries: Sequence[str]
) -> dict[str, Retriever]:
    """The retrievers of `config.prep.retrievers` by name; their indexes are made if missing."""
    settings, folder = workspace.settings, workspace.prep
    depth = len(passages.texts) if settings.depth is None else settings.depth
    retrievers: dict[str, Retriever] = {}
    for name, section in workspace_retrievers(workspace).items():
        if section.kind is RetrieverKind.BM25:
            retrievers[name] = Bm25Retriever(corpus_bm25(workspace, passages), passages, depth)
        elif section.kind is RetrieverKind.RUN:
            path = section.settings["path"]
            retrievers[name] = RunRetriever(path, workspace.corpus_records, passages, depth)
        else:
            model = dense_model(workspace, name)
            retrievers[name] = DenseRetriever(
                model, passages, folder, depth, settings.index, sample_queries
            )
    return retrievers
