"""A set of ids that takes 16 bytes an id, for corpora of many millions of passages."""

import hashlib
from collections.abc import Sequence

import numpy as np


class SeenIds:
    """The ids that were added, as 128-bit hashes in a few sorted arrays.

    The chance that two different ids among 10 million have the same hash is under 1e-24. Small
    arrays are merged into larger ones, up to an eighth of all, so that merging never needs much
    more memory than is in use.
    """

    LEAST_CAP = 2**20

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def add(self, ids: Sequence[str]) -> np.ndarray:
        """Add ids and return which are new, bool [len(ids)]; of equal ids the first is new."""
        if not ids:
            return np.zeros(0, bool)
        digests = (hashlib.blake2b(i.encode(), digest_size=16).digest() for i in ids)
        hashes, first = np.unique(np.frombuffer(b"".join(digests), "S16"), return_index=True)
        is_new = np.ones(len(hashes), bool)
        for level in self._levels:
            places = np.minimum(np.searchsorted(level, hashes), len(level) - 1)
            is_new &= level[places] != hashes
        self._push(hashes[is_new])
        result = np.zeros(len(ids), bool)
        result[first[is_new]] = True
        return result

    def _push(self, hashes: np.ndarray) -> None:
        """Add a sorted array, and merge arrays of about the same size."""
        if len(hashes):
            self._levels.append(hashes)
        cap = max(self.LEAST_CAP, len(self) // 8)
        while len(self._levels) > 1:
            before, last = self._levels[-2:]
            if len(before) > 2 * len(last) or len(before) + len(last) > cap:
                return
            merged = np.sort(np.concatenate([before, last]), kind="stable")
            self._levels[-2:] = [merged]
