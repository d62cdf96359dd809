"""How good the student is on the dev lists: their losses, and nDCG@10 in a pool of passages.

nDCG@10 is measured on people's dev queries and judgments where the records have some, else on the
dev lists.

Shapes: Q lists, P distinct passages, D dimensions; the pool is a set of rows of the passage set.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.types import Params
from ldx.data.lists import ListTable, take_lists
from ldx.data.plan import BatchPlanner
from ldx.eval.metrics import METRIC
from ldx.models.towers import Towers, split_passage_map
from ldx.records.schema import Judge
from ldx.retrieval.encoder import Encoder
from ldx.retrieval.pool import ndcg_in_pool, relevant_passages
from ldx.step.objective import Objective
from ldx.training.dev_values import DevValues

FEW_LISTS = 50


class DevSet:
    """The dev lists of a source, and the pool that queries are searched in.

    The queries that are searched are those of `judged`, or of `table` where `judged` is empty. The
    pool is the union of their lists' passages, filled up to `pool_size` by a random sample. Where
    the union alone is larger, the pool is the union of a random sample of the lists; the queries of
    the other lists are not searched, but their losses count.

    Args:
      table: the dev lists, on which the losses are measured.
      judged: lists of people's queries and judgments, on which no loss is measured.
      planner: the planner of training, for its token ids, padded sizes, and stored passages.
      encoder: the encoder that embeds token ids.
      objective: the losses.
      judges_of: a function that says who judged for the queries of a type (`Manifest.judges_of`).
      num_passages: the size of the passage set.
      pool_size: the most passages in the pool.
      seed: the seed of the random samples.

    Attributes:
      num_lists: how many lists each loss is the mean of; known after the first evaluation.

    Raises:
      UserError: there is no dev list.
    """

    def __init__(
        self,
        table: ListTable,
        judged: ListTable,
        planner: BatchPlanner,
        encoder: Encoder,
        objective: Objective,
        *,
        judges_of: Callable[[str], Sequence[str]],
        num_passages: int,
        pool_size: int,
        seed: int,
    ):
        if not len(table):
            raise UserError(
                "there are no dev lists, and without them no step can be the best; raise "
                "--config.prep.dev_fraction and run data_prep again"
            )
        self._table = table
        self._judged = judged if len(judged) else table
        self.num_lists: dict[str, int] = {}
        self.searched, self.pool = _choose(self._judged, num_passages, pool_size, seed)
        self._planner = planner
        self._encoder = encoder
        self._objective = objective
        self._losses_of = jax.jit(lambda q, p, lists: objective(q, p, lists)[1])
        self._num_lists_of = jax.jit(objective.num_lists)
        self._qrels = {
            self._judged.list_ids[i]: relevant_passages(self._judged, i) for i in self.searched
        }
        self._rows = np.union1d(table.rows[table.where], self.pool)
        judges = [tuple(judges_of(query_type)) for query_type in self._judged.query_types]
        codes = self._judged.query_type[self.searched].tolist()
        self.judges = Counter(judges[code] for code in codes)
        # The queries of the lists stand first, then those that are searched.
        searched_queries = self._judged.query[self.searched]
        self._query_ids = planner.query_ids(np.concatenate([table.query, searched_queries]))
        self._stored = None if planner.stored is None else planner.stored[self._rows]
        self._passage_ids = planner.passage_ids(self._rows) if self._stored is None else []

    def __len__(self) -> int:
        """The number of dev lists."""
        return len(self._table)

    def compile(self, params: Params) -> None:
        """Compile what an evaluation needs of the model, the losses and the search."""
        self._encoder.compile(params, self._query_ids + self._passage_ids)
        size = self._encoder.student.embedding_size
        queries, passages = (
            np.zeros((len(texts), size), np.float32) for texts in (self._query_ids, self._rows)
        )
        self._losses(queries, passages)
        self._ndcg(queries, passages)

    def evaluate(self, params: Params, check: Callable[[], None] = lambda: None) -> DevValues:
        """Losses of the lists, and nDCG@10 of the searched queries."""
        params, passage_map = split_passage_map(params)
        ids = self._query_ids + self._passage_ids
        embeddings = self._encoder.encode_ids(params, ids, description="dev", check=check)
        queries, passages = np.split(embeddings, [len(self._query_ids)])
        if self._stored is not None:
            towers = Towers(params, params, passage_map)
            unit_norm = self._encoder.student.config.normalize
            passages = towers.map_passages(self._stored, unit_norm=unit_norm)
        values = self._losses(queries, passages)
        per_query = self._ndcg(queries, passages)
        values[METRIC] = math.fsum(per_query.values()) / len(per_query)
        means = {f"dev/{name}": value for name, value in values.items()}
        return DevValues(means, per_query, _in_words(self.judges))

    def _losses(self, queries: np.ndarray, passages: np.ndarray) -> dict[str, float]:
        size = self._planner.size
        num_batches = -(-len(self) // size.num_queries)
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for part in np.array_split(np.arange(len(self)), num_batches):
            lists, rows = take_lists(self._table, part, size)
            batch_queries = np.zeros((size.num_queries, queries.shape[1]), queries.dtype)
            batch_queries[: len(part)] = queries[part]
            batch_passages = np.zeros((size.num_passages, queries.shape[1]), queries.dtype)
            batch_passages[: len(rows)] = passages[np.searchsorted(self._rows, rows)]
            losses = self._losses_of(batch_queries, batch_passages, lists)
            for name, count in self._num_lists_of(lists).items():
                sums[name] = sums.get(name, 0.0) + float(losses[name]) * int(count)
                counts[name] = counts.get(name, 0) + int(count)
        self.num_lists = counts
        values = {name: value / max(counts[name], 1) for name, value in sums.items()}
        return values | {"total": self.total(values)}

    def total(self, losses: Mapping[str, float]) -> float:
        """The weighted sum of the losses, given each by name."""
        return float(self._objective.total(losses))

    def _ndcg(self, queries: np.ndarray, passages: np.ndarray) -> dict[str, float]:
        """nDCG@10 of each searched query."""
        pool = passages[np.searchsorted(self._rows, self.pool)]
        return ndcg_in_pool(self._qrels, queries[len(self) :], pool, self.pool)


def evaluate_sources(
    sources: Mapping[str, DevSet], params: Params, check: Callable[[], None] = lambda: None
) -> DevValues:
    """Evaluate every source: means over each, dev/SOURCE/NAME, and over all, dev/NAME.

    In the means over all, sources are weighted by their numbers of dev lists that have the loss, or
    of searched queries (for nDCG@10). Where there is one source, its means are those over all.
    """
    values = {name: dev.evaluate(params, check) for name, dev in sources.items()}
    if len(values) == 1:
        return next(iter(values.values()))
    some = next(iter(sources.values()))
    means = {}
    for loss in some.num_lists:
        num_lists = {name: dev.num_lists[loss] for name, dev in sources.items()}
        means[f"dev/{loss}"] = _mean(values, f"dev/{loss}", num_lists)
    total = some.total({loss: means[f"dev/{loss}"] for loss in some.num_lists})
    searched = {name: len(dev.searched) for name, dev in sources.items()}
    means |= {"dev/total": total, f"dev/{METRIC}": _mean(values, f"dev/{METRIC}", searched)}
    own = {
        f"dev/{name}/{key.removeprefix('dev/')}": value
        for name, of_source in values.items()
        for key, value in of_source.means.items()
    }
    per_query = {
        f"{name}/{list_id}": value
        for name, of_source in values.items()
        for list_id, value in of_source.per_query.items()
    }
    judges = sum((dev.judges for dev in sources.values()), Counter[tuple[str, ...]]())
    return DevValues(means | own, per_query, _in_words(judges))


def _mean(values: Mapping[str, DevValues], key: str, sizes: Mapping[str, int]) -> float:
    """The mean over sources, weighted by their sizes; 0 where there is nothing in any."""
    whole = max(sum(sizes.values()), 1)
    return math.fsum(values[name].means[key] * size / whole for name, size in sizes.items())


def _in_words(judges: Mapping[tuple[str, ...], int]) -> str:
    """A phrase that says who wrote the queries and who judged, given the counts of each kind."""

    def kind(names: tuple[str, ...], noun: str = "") -> str:
        return f"human{noun} judged by {' and '.join(names)}" if names else f"synthetic{noun}"

    if len(judges) == 1:
        return kind(next(iter(judges)), " queries")
    # People's queries first, and of these the ones that people judged.
    counts = sorted(judges.items(), key=lambda item: (not item[0], Judge.PEOPLE not in item[0]))
    return "queries: " + ", ".join(f"{number} {kind(names)}" for names, number in counts)


def _choose(
    table: ListTable, num_passages: int, pool_size: int, seed: int
) -> tuple[list[int], np.ndarray]:
    """A random sample of the lists, as many as fit in the pool, and the rows of the pool."""
    rng = np.random.default_rng([seed, 0])
    chosen: list[int] = []
    pool: set[int] = set()
    for i in rng.permutation(len(table)):
        union = pool.union(table.rows[i, : table.sizes[i]].tolist())
        if len(union) > pool_size:  # no later list is tried: those that fit are no random sample
            break
        pool = union
        chosen.append(int(i))
    if not chosen:
        raise UserError(
            f"config.train.dev_pool={pool_size} is less than the passages of one dev list; raise it"
        )
    if len(chosen) < FEW_LISTS:
        logging.warning(
            "there are only %d dev lists, too few to tell one step from another", len(chosen)
        )
    if len(chosen) < len(table):
        logging.info(
            "dev: nDCG@10 is of the %d of %d lists that fit config.train.dev_pool=%d passages",
            len(chosen),
            len(table),
            pool_size,
        )
    rows = rng.permutation(num_passages)
    room = pool_size - len(pool)
    pool.update(int(row) for row in rows[~np.isin(rows, list(pool))][:room])
    return chosen, np.array(sorted(pool))
