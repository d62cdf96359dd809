"""Training queries as stages hand them on: WORKDIR/prep/queries.jsonl, cut into shards by type."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_prep.engines.shards import read_json_lines
from data_prep.pipeline.draws import split_of
from data_prep.pipeline.settings import QueryOrigin
from data_prep.pipeline.workspace import Workspace, needed
from ldx.common.files import atomic_write
from ldx.records.schema import HUMAN_DEV

QUERIES_NAME = "queries.jsonl"


@dataclass(frozen=True)
class Query:
    """A training query.

    Attributes:
      row: the passage it was made from; -1 for a human query.
      excerpt: the sentence of that passage it was cut from; "" where there is no single one.
      relevant: rows judged relevant, with their grades; empty for a query made from a passage.
      irrelevant: rows judged and found not relevant.
      group: the doc_id that decides its split: of its passage, or of a human's best.
      never_negative: rows of other passages that a query of the same words was made from.
    """

    query_id: str
    query_type: str
    text: str
    row: int
    excerpt: str
    relevant: dict[int, int]
    group: str
    never_negative: list[int] = field(default_factory=list)
    irrelevant: list[int] = field(default_factory=list)

    @property
    def is_human(self) -> bool:
        """Whether people wrote and judged it."""
        return self.query_type in (QueryOrigin.HUMAN, HUMAN_DEV)

    @property
    def judged(self) -> dict[int, int]:
        """Grades by row; of a query made from a passage, 1 for that passage."""
        if self.row >= 0:
            return {self.row: 1}
        return self.relevant | dict.fromkeys(self.irrelevant, 0)

    @property
    def needed_rows(self) -> list[int]:
        """The rows that are in its list whether a retriever finds them or not."""
        return list(self.relevant) or [self.row]

    def split(self, dev_fraction: float, seed: int) -> str:
        """train or dev, by its passage; queries of config.prep.human_dev_split are all dev."""
        if self.query_type == HUMAN_DEV:
            return "dev"
        return split_of(dev_fraction, seed, self.group)


@dataclass(frozen=True)
class QueryShard:
    """Queries that are worked on together.

    Attributes:
      name: `TYPE-NUMBER`.
      first: the place of its first query among all.
      queries: of one type.
    """

    name: str
    first: int
    queries: list[Query]

    @property
    def query_type(self) -> str:
        """The type of all its queries."""
        return self.queries[0].query_type

    @property
    def numbers(self) -> range:
        """The places of its queries among all."""
        return range(self.first, self.first + len(self.queries))

    def content(self) -> str:
        """All that a later stage can depend on."""
        return json.dumps([asdict(query) for query in self.queries], ensure_ascii=False)


@dataclass(frozen=True)
class Collected:
    """Queries from one place.

    Attributes:
      queries: those that can be used.
      dropped: what gave none, by reason.
    """

    queries: list[Query]
    dropped: Counter[str]


def write_prepared_queries(path: Path, queries: Iterable[Query]) -> None:
    """Write queries.jsonl atomically."""
    with atomic_write(path) as file:
        for query in queries:
            file.write(json.dumps(asdict(query), ensure_ascii=False) + "\n")


def read_prepared_queries(path: Path) -> list[Query]:
    """Read what `write_prepared_queries` wrote."""
    queries = []
    for values in read_json_lines(path):
        values["relevant"] = {int(row): grade for row, grade in values["relevant"].items()}
        queries.append(Query(**values))
    return queries


def load_queries(workspace: Workspace) -> list[Query]:
    """What the stage generate_queries left."""
    return read_prepared_queries(needed(workspace.prep / QUERIES_NAME, "generate_queries"))


def query_shards(workspace: Workspace) -> list[QueryShard]:
    """The training queries in shards."""
    return cut_into_shards(load_queries(workspace), workspace.settings.shard_size)


def shards_of_type(workspace: Workspace, query_type: str) -> list[QueryShard]:
    """The training queries of one type in shards."""
    return [part for part in query_shards(workspace) if part.query_type == query_type]


def scored_shards(parts: Sequence[QueryShard]) -> list[QueryShard]:
    """The shards that teachers score: all but people's dev queries, which teach nothing."""
    return [part for part in parts if part.query_type != HUMAN_DEV]


def cut_into_shards(queries: Sequence[Query], size: int) -> list[QueryShard]:
    """Shards of at most `size` queries of one type; queries stand type by type."""
    shards: list[QueryShard] = []
    for number, query in enumerate(queries):
        last = shards[-1] if shards else None
        if last and last.query_type == query.query_type and len(last.queries) < size:
            last.queries.append(query)
            continue
        same = last is not None and last.query_type == query.query_type
        index = int(last.name.rpartition("-")[2]) + 1 if last and same else 0
        shards.append(QueryShard(f"{query.query_type}-{index:05d}", number, [query]))
    return shards
