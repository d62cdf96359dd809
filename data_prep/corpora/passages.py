"""The passage set as later stages see it: the texts, and the role of each passage."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from data_prep.corpora.near_duplicates import NearDuplicates
from data_prep.engines.shards import Payload
from data_prep.pipeline.draws import draw
from data_prep.pipeline.workspace import Workspace, needed
from ldx.common.errors import UserError
from ldx.common.files import atomic_write, fingerprint
from ldx.common.progress import progress_bar
from ldx.records.sets import PassageSet, PassageTexts, records_fingerprint

ROLES_NAME = "passages.npz"
_IN_FILE = {"gets_queries": "source"}  # fields of `Roles` that have another name in the file


@dataclass(frozen=True, eq=False)
class Roles:
    """The roles that the corpus stage chose for N passages.

    Attributes:
      held_out: whether a passage is kept out of queries and lists, bool [N].
      duplicate: whether a passage is a near-duplicate, which gets no queries and is never a
        candidate, bool [N].
      container: the row that contains a near-duplicate, int64 [N]; -1 where there is none.
      gets_queries: whether queries are made for a passage, bool [N].
    """

    held_out: np.ndarray
    duplicate: np.ndarray
    container: np.ndarray
    gets_queries: np.ndarray

    @property
    def excluded(self) -> np.ndarray:
        """Whether a passage is never a candidate, bool [N]."""
        return self.held_out | self.duplicate

    @property
    def num_candidates(self) -> int:
        """The number of passages that may be candidates."""
        return int((~self.excluded).sum())

    def save(self, path: Path) -> None:
        """Write the roles to an .npz file, atomically."""
        with atomic_write(path, "wb") as file:
            np.savez(file, **{_IN_FILE.get(name, name): v for name, v in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> "Roles":
        """Read the roles that `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{f.name: arrays[_IN_FILE.get(f.name, f.name)] for f in fields(cls)})


@dataclass(frozen=True, eq=False)
class Passages:
    """The passage set of N passages.

    Attributes:
      texts: N texts, which are read from disk one by one, joined with their titles and cut.
      key: a hash that changes whenever a text changes.
      roles: the roles of all passages.
    """

    texts: PassageTexts
    key: str
    roles: Roles


def load_passages(workspace: Workspace) -> Passages:
    """Load the passage set and its roles, as the corpus stage left them.

    Raises:
      UserError: there are too few passages for a list.
    """
    data = workspace.config.data
    texts = PassageTexts(
        PassageSet(workspace.corpus_records),
        template=data.passage_template,
        max_chars=data.max_chars,
    )
    key = fingerprint(records_fingerprint(workspace.corpus_records, "passages"), repr(texts))
    roles = Roles.load(roles_path(workspace))
    if roles.num_candidates < 2:
        raise UserError(
            f"{roles.num_candidates} of {len(texts)} passages are neither held out nor "
            "near-duplicates, and a list needs two; add passages, or set "
            "config.prep.drop_near_duplicates=False"
        )
    return Passages(texts, key, roles)


def roles_path(workspace: Workspace) -> Path:
    """The path of the file with the roles.

    Raises:
      UserError: the corpus stage has not been run.
    """
    return needed(workspace.prep / ROLES_NAME, "corpus")


def passages_inputs(workspace: Workspace) -> dict[str, str]:
    """Fingerprints of the passage set and its roles, which later stages depend on."""
    roles = roles_path(workspace)
    return {
        "passages": records_fingerprint(workspace.corpus_records, "passages"),
        "roles": fingerprint(roles),
    }


def doc_ids_where(records: Path, doc_ids: Container[str]) -> Iterator[tuple[int, str]]:
    """The row and doc_id of each passage whose doc_id is in `doc_ids`; reads the whole set."""
    passage_set = PassageSet(records)
    for row in range(len(passage_set)):
        doc_id = passage_set[row].doc_id
        if doc_id in doc_ids:
            yield row, doc_id


MAX_HELD_OUT_FRACTION = 0.05
PASSAGES_PER_FILE = 500_000


def choose_roles(
    passage_set: PassageSet,
    duplicates: NearDuplicates | None,
    *,
    num_held_out: int,
    max_source_passages: int | None,
    seed: int,
) -> Roles:
    """Choose the passages that are held out and those that get queries.

    Both are drawn by their doc_ids, and at most 5% of all passages are held out.

    Args:
      passage_set: the passages.
      duplicates: the near-duplicates among them; None where they were not looked for.
      num_held_out: the number of passages to hold out.
      max_source_passages: the most passages that get queries; None: no limit.
      seed: the seed of the run.
    """
    num_passages = len(passage_set)
    duplicate, container = np.zeros(num_passages, bool), np.full(num_passages, -1)
    if duplicates is not None:
        duplicate, container = duplicates.dropped, duplicates.containers
    held_draws, query_draws = np.zeros(num_passages), np.zeros(num_passages)
    rows = range(num_passages)
    for row in progress_bar(rows, desc="roles", unit=" passages"):
        doc_id = passage_set[row].doc_id
        held_draws[row] = draw(seed, "held out", doc_id)
        query_draws[row] = draw(seed, "source", doc_id)
    num_held = min(num_held_out, int(MAX_HELD_OUT_FRACTION * num_passages))
    held_out = _lowest(held_draws, np.ones(num_passages, bool), num_held)
    eligible = ~held_out & ~duplicate
    max_rows = num_passages if max_source_passages is None else max_source_passages
    return Roles(held_out, duplicate, container, _lowest(query_draws, eligible, max_rows))


def _lowest(values: np.ndarray, eligible: np.ndarray, number: int) -> np.ndarray:
    """A mask of the `number` eligible places with the lowest values, bool [N]."""
    chosen = np.zeros(len(values), bool)
    places = np.flatnonzero(eligible)
    chosen[places[np.argsort(values[places], kind="stable")[:number]]] = True
    return chosen


def passages_of(payload: Payload) -> Iterator[tuple[int, str, str]]:
    """The rows, doc_ids and texts of the passages in a payload of `passages_payload`."""
    return zip(payload["rows"], payload["doc_ids"], payload["passages"], strict=True)


def passages_payload(
    passage_set: PassageSet, passages: Passages, query_type: str, rows: list[int]
) -> Payload:
    """A payload with the passages from which queries of a type are made."""
    return {
        "query_type": query_type,
        "rows": rows,
        "doc_ids": [passage_set[row].doc_id for row in rows],
        "passages": [passages.texts[row] for row in rows],
    }
