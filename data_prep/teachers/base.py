"""The interface of teachers: (query, passage) pairs go in, raw scores come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """N pairs of a query and a passage, each with its id; all four sequences have length N."""

    query_ids: Sequence[str]
    queries: Sequence[str]
    doc_ids: Sequence[str]
    passages: Sequence[str]

    def __post_init__(self) -> None:
        sizes = {len(x) for x in (self.query_ids, self.queries, self.doc_ids, self.passages)}
        assert len(sizes) == 1, f"a pair has four parts, found lengths {sorted(sizes)}"

    def __len__(self) -> int:
        return len(self.query_ids)


@dataclass(frozen=True)
class Problem:
    """A pair that could not be scored, and why."""

    query_id: str
    doc_id: str
    reason: str


class Teacher(Protocol):
    """Anything that scores pairs.

    The teachers of this package also have `problems`, a list of `Problem`: the pairs to which the
    last call of `score` gave NaN.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides a score: files, templates, lengths, dtype."""

    def score(self, pairs: Pairs) -> np.ndarray:
        """Scores float32 [N] of pairs, in their order; NaN where a pair could not be scored.

        They are raw: logits, never passed through a sigmoid. Higher is better. A score does not
        depend on the other pairs of the call by more than 1e-5 in float32; the same call gives the
        same bytes on the same machine.
        """
