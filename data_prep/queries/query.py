"""Training queries as stages pass them on: WORKDIR/prep/queries.jsonl, cut into shards by type."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_prep.engines.shards import read_json_lines
from data_prep.pipeline.draws import split_of
from data_prep.pipeline.workspace import Workspace, needed
from ldx.common.files import atomic_write
from ldx.records.schema import HUMAN_DEV, JUDGED_TYPES

QUERIES_NAME = "queries.jsonl"


@dataclass(frozen=True)
class Query:
    """A training query.

    Attributes:
      query_id: the id of the query.
      query_type: the type of the query, such as `question`.
      text: the query itself.
      row: the row of the passage that the query was made from; -1 where people wrote the query.
      excerpt: the sentence that the query was cut from; "" where there is no single one.
      relevant: the grades of the rows that people judged relevant; empty for a query made from a
        passage, and for a query of a log.
      group: what decides the split of the query: the doc_id of its passage, for a judged query
        that of its best passage, and for a query of a log its words.
      never_negative: rows of other passages that a query of the same words was made from.
      irrelevant: rows that people judged not relevant.
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
    def is_judged(self) -> bool:
        """Whether people judged passages for the query; they wrote it too."""
        return self.query_type in JUDGED_TYPES

    @property
    def has_own_passage(self) -> bool:
        """Whether the query was made from a passage."""
        return self.row >= 0

    @property
    def judged(self) -> dict[int, int]:
        """Grades by row; for a query made from a passage, grade 1 for that passage."""
        if self.has_own_passage:
            return {self.row: 1}
        return self.relevant | dict.fromkeys(self.irrelevant, 0)

    @property
    def needed_rows(self) -> list[int]:
        """The rows that the query's list holds whether a retriever finds them or not."""
        return [self.row] if self.has_own_passage else list(self.relevant)

    def split(self, dev_fraction: float, seed: int) -> str:
        """The split of the query, `train` or `dev`, which its group decides.

        Queries of config.prep.human_dev_split are all `dev`.
        """
        if self.query_type == HUMAN_DEV:
            return "dev"
        return split_of(dev_fraction, seed, self.group)


@dataclass(frozen=True)
class QueryShard:
    """Queries of one type that are worked on together.

    Attributes:
      name: `TYPE-NUMBER`.
      first: the place of the shard's first query among all queries.
      queries: the queries of the shard.
    """

    name: str
    first: int
    queries: list[Query]

    @property
    def query_type(self) -> str:
        """The type that all queries of the shard have."""
        return self.queries[0].query_type

    @property
    def numbers(self) -> range:
        """The places of the shard's queries among all queries."""
        return range(self.first, self.first + len(self.queries))

    def content(self) -> str:
        """The text of all fields of the queries, which later stages hash."""
        return json.dumps([asdict(query) for query in self.queries], ensure_ascii=False)


@dataclass(frozen=True)
class Collected:
    """Queries from one source.

    Attributes:
      queries: the queries that can be used.
      dropped: how many queries were dropped, by reason.
    """

    queries: list[Query]
    dropped: Counter[str]


def write_prepared_queries(path: Path, queries: Iterable[Query]) -> None:
    """Write queries.jsonl atomically."""
    with atomic_write(path) as file:
        for query in queries:
            file.write(json.dumps(asdict(query), ensure_ascii=False) + "\n")


def read_prepared_queries(path: Path) -> list[Query]:
    """Read the queries that `write_prepared_queries` wrote."""
    queries = []
    for values in read_json_lines(path):
        values["relevant"] = {int(row): grade for row, grade in values["relevant"].items()}
        queries.append(Query(**values))
    return queries


def load_queries(workspace: Workspace) -> list[Query]:
    """Load the queries that the stage generate_queries left."""
    return read_prepared_queries(needed(workspace.prep / QUERIES_NAME, "generate_queries"))


def query_shards(workspace: Workspace) -> list[QueryShard]:
    """The shards of the training queries."""
    return cut_into_shards(load_queries(workspace), workspace.settings.shard_size)


def shards_of_type(workspace: Workspace, query_type: str) -> list[QueryShard]:
    """The shards of the training queries of one type."""
    return [part for part in query_shards(workspace) if part.query_type == query_type]


def scored_shards(parts: Sequence[QueryShard]) -> list[QueryShard]:
    """The shards that teachers score: all but those of people's dev queries."""
    return [part for part in parts if part.query_type != HUMAN_DEV]


def cut_into_shards(queries: Sequence[Query], size: int) -> list[QueryShard]:
    """Cut queries, which are sorted by type, into shards of at most `size` queries of one type."""
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
