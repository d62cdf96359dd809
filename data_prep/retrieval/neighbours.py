"""An order of passages in which those that are near by their embeddings stand near each other.

Passages are put into cells by k-means, those of a cell into smaller cells, and so on. Cells, and in
the end passages, are lined up by cutting them in two again and again; the part that is nearer to
what stands before them goes first. N passages, n passages of a part, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_CELLS = 256  # a part is divided into at most so many
CELL = 16  # passages of a cell on average, unless MAX_CELLS makes them more
SMALL = 64  # a part of so few passages is lined up without dividing it into cells
LEAF = 3  # so few passages are sorted, not cut in two
KMEANS_STEPS = 8
KMEANS_SAMPLE = 32  # k-means looks at so many passages for each cell
POWER_STEPS = 5
LEAST_CUT_SHARE = 0.25  # at least this share of passages is on either side of a cut
MOST_SHARE = 0.9  # a cell with more of its part holds copies of one passage
NUM_MEAN_CANDIDATES = 20  # the mean embedding of so many candidates stands for a query
ROWS_AT_ONCE = 65_536  # embeddings in memory at once


@dataclass(frozen=True, eq=False)
class _Part:
    """Passages whose places are next to each other, not yet in order.

    Attributes:
      rows: int64 [n], the passages' rows.
      after: float32 [D], the centre of the part that comes next; None at the end.
    """

    rows: np.ndarray
    after: np.ndarray | None


# BLAS may compute on what lies behind a matrix in memory; a warning of 0 · ∞ there says nothing.
@np.errstate(invalid="ignore")
def neighbour_order(embeddings: np.ndarray) -> np.ndarray:
    """The place of every passage in an order in which neighbours stand near each other.

    Equal input gives an equal order. Time grows as N · D · log N; memory holds ROWS_AT_ONCE
    embeddings and a few numbers for each passage.

    Args:
      embeddings: [N, D], finite, float16 or float32; they may be memory-mapped.

    Returns:
      int64 [N], a permutation of 0 … N − 1: the place of each row.
    """
    num_passages = len(embeddings)
    ordered = [np.zeros(0, np.int64)]
    before = None  # the centre of the last passages that have their places
    parts = [_Part(np.arange(num_passages), None)] if num_passages else []
    while parts:
        part = parts.pop()
        if len(part.rows) > SMALL:
            parts += reversed(_divide(embeddings, part, before))
            continue
        vectors = _read(embeddings, part.rows)
        order = _line_up(vectors, before, part.after)
        ordered.append(part.rows[order])
        before = vectors[order[-LEAF:]].mean(axis=0)
    places = np.empty(num_passages, np.int64)
    places[np.concatenate(ordered)] = np.arange(num_passages)
    return places


def order_queries(rows: Sequence[np.ndarray], passage_embeddings: np.ndarray) -> np.ndarray:
    """The place of every query in an order that puts like candidates together, int64 [Q].

    Queries are ordered by the mean embedding of their first candidates (`neighbour_order`). Lists
    that stand together then share more passages than in an order by the first candidate alone.

    Args:
      rows: candidates by passage, int [q, C] for each part of the queries, best first; -1 is
        padding.
      passage_embeddings: [N, D].
    """
    means = np.zeros((sum(map(len, rows)), passage_embeddings.shape[1]), np.float32)
    by_query = (candidates for part in rows for candidates in part[:, :NUM_MEAN_CANDIDATES])
    for number, candidates in enumerate(by_query):
        mined = np.sort(candidates[candidates >= 0])
        if len(mined):
            means[number] = passage_embeddings[mined].mean(axis=0)
    return neighbour_order(means)


def _read(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(embeddings[rows], np.float32)


def _evenly(array: np.ndarray, size: int) -> np.ndarray:
    """Entries of an array at even steps, `size` of them."""
    return array[np.arange(size) * len(array) // size]


def _divide(embeddings: np.ndarray, part: _Part, before: np.ndarray | None) -> list[_Part]:
    """The cells of a part, lined up."""
    rows = part.rows
    num_cells = min(MAX_CELLS, len(rows) // CELL)
    sample = _evenly(rows, min(len(rows), KMEANS_SAMPLE * num_cells))
    centres = _k_means(_read(embeddings, sample), num_cells)
    blocks = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    cell_of = np.concatenate([_nearest(_read(embeddings, block), centres) for block in blocks])
    cells, sizes = np.unique(cell_of, return_counts=True)
    if sizes.max() > MOST_SHARE * len(rows):
        return [_Part(half, part.after) for half in np.array_split(rows, 2)]
    members = np.split(rows[np.argsort(cell_of, kind="stable")], np.cumsum(sizes)[:-1])
    order = _line_up(centres[cells], before, part.after)
    next_centres = [*centres[cells[order[1:]]], part.after]
    return [_Part(members[i], after) for i, after in zip(order, next_centres, strict=True)]


def _k_means(vectors: np.ndarray, num_cells: int) -> np.ndarray:
    """Centres of cells, float32 [num_cells, D]; they start as `vectors` [n, D] at even steps."""
    centres = _evenly(vectors, num_cells)
    for _ in range(KMEANS_STEPS):
        cell_of = _nearest(vectors, centres)
        cells, sizes = np.unique(cell_of, return_counts=True)
        by_cell = vectors[np.argsort(cell_of, kind="stable")]
        sums = np.add.reduceat(by_cell, np.cumsum(sizes) - sizes, axis=0)
        centres[cells] = sums / sizes[:, None]
    return centres


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The number of the nearest centre for each of `vectors` [n, D], int64 [n]."""
    return (vectors @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1)


def _line_up(
    vectors: np.ndarray, before: np.ndarray | None, after: np.ndarray | None
) -> np.ndarray:
    """An order int64 [n] of `vectors` [n, D] that leads from `before` to `after`, both [D]."""
    ordered = []
    parts = [_Part(np.arange(len(vectors)), after)]
    while parts:
        part = parts.pop()
        members = vectors[part.rows]
        centre = members.mean(axis=0)
        direction = _main_direction(members)
        behind = centre if before is None else before
        ahead = centre if part.after is None else part.after
        if direction @ (ahead - behind) < 0:
            direction = -direction
        positions = (members - members[0]) @ direction
        order = np.argsort(positions, kind="stable")
        if len(order) <= LEAF:
            ordered.append(part.rows[order])
            before = centre
            continue
        cut = _cut(positions[order])
        first, second = np.sort(order[:cut]), np.sort(order[cut:])
        parts.append(_Part(part.rows[second], part.after))
        parts.append(_Part(part.rows[first], members[second].mean(axis=0)))
    return np.concatenate(ordered)


def _main_direction(vectors: np.ndarray) -> np.ndarray:
    """The direction of most variance by power iteration, unit norm; 0 if all are equal; [D]."""
    centred = vectors - vectors[0]  # equal vectors become exact zeros
    centred -= centred.mean(axis=0)
    direction = centred[(centred**2).sum(axis=1).argmax()]
    for _ in range(POWER_STEPS):
        direction = (centred @ direction) @ centred
        direction = direction / (np.linalg.norm(direction) or 1)
    return direction


def _cut(positions: np.ndarray) -> int:
    """The number k of the sorted positions [n], n > 1, that go to the first of two clusters.

    It maximizes the variance between the two, (Σ first)² / (k · (n − k)) of positions with mean 0.
    """
    size = len(positions)
    least = max(1, int(LEAST_CUT_SHARE * size))
    first = np.arange(least, size - least + 1)
    centred = positions.astype(np.float64) - positions.mean(dtype=np.float64)
    sums = np.cumsum(centred)[first - 1]
    return int(first[(sums**2 / (first * (size - first))).argmax()])
