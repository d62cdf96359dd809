"""The passage set as later stages see it: texts by row, and which rows take part in what."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.stage import Workspace, needed
from ldx.common.errors import UserError
from ldx.common.files import atomic_write, fingerprint
from ldx.records.sets import PassageSource, PassageTexts, records_fingerprint

ROLES_NAME = "passages.npz"


@dataclass(frozen=True, eq=False)
class Roles:
    """What the corpus stage decided of each of N passages.

    Attributes:
      held_out: bool [N], kept out of queries and lists.
      duplicate: bool [N], nearly contained in another; neither source nor candidate.
      container: int64 [N], the row that holds a duplicate; -1 where there is none.
      source: bool [N], those that queries are made for.
    """

    held_out: np.ndarray
    duplicate: np.ndarray
    container: np.ndarray
    source: np.ndarray

    @property
    def excluded(self) -> np.ndarray:
        """bool [N], nobody's candidates."""
        return self.held_out | self.duplicate

    def save(self, path: Path) -> None:
        """Write atomically."""
        with atomic_write(path, "wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Roles":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


@dataclass(frozen=True, eq=False)
class Passages:
    """The passage set of N passages.

    Attributes:
      texts: N texts, titles joined and cut as configured, read from disk one by one.
      key: changes whenever any text does.
      roles: of every passage.
    """

    texts: PassageTexts
    key: str
    roles: Roles


def load_passages(workspace: Workspace) -> Passages:
    """The passage set and its roles, as the corpus stage left them.

    Raises:
      UserError: it is too small for lists of the size that is wanted.
    """
    data = workspace.config.data
    texts = PassageTexts(
        PassageSource(workspace.corpus_records),
        template=data.passage_template,
        max_chars=data.max_chars,
    )
    key = fingerprint(records_fingerprint(workspace.corpus_records, "passages"), repr(texts))
    roles = Roles.load(roles_path(workspace))
    num_usable, list_size = int((~roles.excluded).sum()), workspace.config.prep.list_size
    if num_usable < list_size:
        raise UserError(
            f"config.prep.list_size={list_size}, but {num_usable} of {len(texts)} passages are "
            "neither held out nor near-duplicates; set a smaller one"
        )
    return Passages(texts, key, roles)


def roles_path(workspace: Workspace) -> Path:
    """Where the roles are.

    Raises:
      UserError: the corpus stage has not been run.
    """
    return needed(workspace.prep / ROLES_NAME, "corpus")


def passages_inputs(workspace: Workspace) -> dict[str, str]:
    """What later stages depend on: the passage set and its roles."""
    roles = roles_path(workspace)
    return {
        "passages": records_fingerprint(workspace.corpus_records, "passages"),
        "roles": fingerprint(roles),
    }


def doc_ids_where(records: Path, wanted: Container[str]) -> Iterator[tuple[int, str]]:
    """Row and doc_id of the passages that are wanted; goes over the whole set."""
    source = PassageSource(records)
    for row in range(len(source)):
        doc_id = source[row].doc_id
        if doc_id in wanted:
            yield row, doc_id
