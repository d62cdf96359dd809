"""Candidates of queries, and the files in which stages hand them on.

Q queries, R retrievers, C candidates a query at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.engines.shards import arrays_file
from data_prep.pipeline.workspace import Workspace, needed
from ldx.common.files import read_json

CANDIDATES_NAME = "candidates.json"
ORDER_NAME = "order.npy"


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates that retrievers found for each query, with their scores.

    Attributes:
      rows: int32 [Q, C], best first by fused rank, then those added; -1 is padding.
      fused_rank: int32 [Q, C], ranks from 1; 0 where the passage was added, not found.
      scores: float32 [Q, R, C], every retriever's scores of all candidates.
      moments: float32 [Q, R, 2], mean and deviation of each retriever over the WHOLE corpus.
    """

    rows: np.ndarray
    fused_rank: np.ndarray
    scores: np.ndarray
    moments: np.ndarray

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.rows)

    def take(self, numbers: np.ndarray) -> "Candidates":
        """The candidates of some queries, by their places or by a mask."""
        return Candidates(*(values[numbers] for values in vars(self).values()))

    def rank_of(self, rows: np.ndarray) -> np.ndarray:
        """The fused rank of one passage for each query, `rows` int [Q]; 0 where it was not found.

        A row of -1 is no passage, and has 0.
        """
        is_passage = (self.rows == rows[:, None]) & (self.rows >= 0)
        return np.where(is_passage, self.fused_rank, 0).max(axis=1, initial=0)

    def of_query(self, query: int, never: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows and ranks [n] of a query's candidates, best first, without those in `never`."""
        rows, ranks = self.rows[query], self.fused_rank[query]
        mask = (ranks > 0) & ~np.isin(rows, never)
        return rows[mask], ranks[mask]

    def to_bytes(self) -> bytes:
        """The bytes of an .npz file that `load` reads."""
        return arrays_file(**vars(self))

    @classmethod
    def load(cls, path: Path) -> "Candidates":
        """Read a file whose bytes `to_bytes` made."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})

    @classmethod
    def concatenate(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """The candidates of all parts in order, padded to the widest part."""
        width = max(part.rows.shape[1] for part in parts)

        def joined(name: str, fill: int) -> np.ndarray:
            arrays = [getattr(part, name) for part in parts]
            return np.concatenate([pad_last(array, width, fill) for array in arrays])

        return cls(
            joined("rows", -1),
            joined("fused_rank", 0),
            joined("scores", 0),
            np.concatenate([part.moments for part in parts]),
        )


def candidate_paths(workspace: Workspace) -> dict[str, Path]:
    """The files of candidates that were mined, by the name of the shard of queries."""
    index = read_json(needed(workspace.prep / CANDIDATES_NAME, "mine"))
    return {name: workspace.prep / "candidates" / file for name, file in index["shards"].items()}


def pad_last(array: np.ndarray, width: int, fill: float) -> np.ndarray:
    """An array whose last axis is filled up to `width`."""
    padding = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return np.pad(array, padding, constant_values=fill)


def load_order(workspace: Workspace) -> np.ndarray:
    """The place of every query in the order of `order_queries`, int64 [number of queries]."""
    return np.load(needed(workspace.prep / ORDER_NAME, "mine"))
