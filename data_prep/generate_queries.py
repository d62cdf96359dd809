"""Stage 2: training queries, cut out of passages or taken from the collection's own.

Leaves WORKDIR/prep/queries.jsonl.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.bm25 import Bm25
from data_prep.choice import draw
from data_prep.corpus import (
    load_held_out,
    load_passage_texts,
    passages_inputs,
    qrels_files,
)
from data_prep.extractive import TYPES, Extractor
from data_prep.stage import Stage, Workspace, file_fingerprints, needed, run_as_command
from ldx.errors import UserError
from ldx.eval import beir
from ldx.files import atomic_write
from ldx.progress import progress_bar

MIN_QUERY_CHARS = 8
MIN_QUERY_WORDS = 2
LEAK_WORDS = 4  # a test query of fewer words may stand inside a training query by chance
HUMAN = "human"


@dataclass(frozen=True)
class Query:
    """A training query.

    Attributes:
      row: the passage it was made from; -1 for a human query.
      excerpt: the sentence of that passage it was cut from; "" where there is no single one.
      relevant: rows judged relevant, with their grades; empty for a query made from a passage.
    """

    query_id: str
    query_type: str
    text: str
    row: int
    excerpt: str
    relevant: dict[int, int]


def load_queries(workspace: Workspace) -> list[Query]:
    """What this stage left."""
    path = needed(workspace.prep / "queries.jsonl", "generate_queries")
    queries = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            values = json.loads(line)
            values["relevant"] = {int(row): grade for row, grade in values["relevant"].items()}
            queries.append(Query(**values))
    return queries


class TestQueries:
    """The queries of a test split, to keep them out of training."""

    __test__ = False  # not a class of tests

    def __init__(self, texts: Iterable[str]):
        """Index by first word."""
        self._by_first_word: dict[str, list[str]] = {}
        for text in {normalized(text) for text in texts} - {""}:
            self._by_first_word.setdefault(text.split()[0], []).append(text)

    def leaks_into(self, text: str) -> bool:
        """Whether `text` equals a test query, or holds one of at least LEAK_WORDS words."""
        text = normalized(text)
        return any(
            text == test or (len(test.split()) >= LEAK_WORDS and f" {test} " in f" {text} ")
            for word in set(text.split())
            for test in self._by_first_word.get(word, ())
        )


def normalized(text: str) -> str:
    """Lower case, words only."""
    return " ".join(re.findall(r"\w+", text.lower()))


def test_query_texts(root: Path, split: str) -> list[str]:
    """The texts of the queries of `split`, config.eval.split; none where it has no qrels."""
    if split not in qrels_files(root):
        return []
    return list(beir.load_dataset(root, split).queries.values())


def extract_queries(
    doc_ids: list[str],
    texts: list[str],
    eligible: list[int],
    *,
    query_types: tuple[str, ...],
    seed: int,
) -> Iterator[Query]:
    """One query of each type for each passage that is eligible; its text may be empty.

    Raises:
      UserError: a type is unknown, or there is none.
    """
    unknown = [name for name in query_types if name not in TYPES]
    if unknown or not query_types:
        raise UserError(f"prep.query_types has {unknown or 'nothing'}; known are {list(TYPES)}")
    extractor = Extractor(Bm25(texts), seed)
    for row in progress_bar(eligible, desc="queries", unit=" passages"):
        for query_type in query_types:
            text, excerpt = extractor.make(query_type, doc_ids[row], texts[row])
            yield Query(f"{doc_ids[row]}:{query_type}", query_type, text, row, excerpt, {})


def human_queries(
    dataset: beir.Dataset, row_of: dict[str, int], dropped: Counter[str]
) -> Iterator[Query]:
    """The judged queries of a split; passages outside `row_of` are left out."""
    for query_id, grades in dataset.qrels.items():
        relevant = {row_of[d]: g for d, g in grades.items() if g > 0 and d in row_of}
        if relevant:
            yield Query(query_id, HUMAN, dataset.queries[query_id], -1, "", relevant)
        else:
            dropped["no relevant passage"] += 1


def clean(
    queries: Iterable[Query], test_queries: TestQueries, dropped: Counter[str]
) -> list[Query]:
    """Drop empty, short and repeated queries, and those that give a test query away."""
    kept: dict[str, Query] = {}
    for query in queries:
        key = normalized(query.text)
        is_human = query.query_type == HUMAN
        if not key:
            dropped["nothing to extract"] += 1
        elif not is_human and (
            len(query.text) < MIN_QUERY_CHARS or len(key.split()) < MIN_QUERY_WORDS
        ):
            dropped["too short"] += 1
        elif test_queries.leaks_into(query.text):
            dropped["holds a test query"] += 1
        elif kept.setdefault(key, query) is not query:
            dropped["equal to another"] += 1
    return list(kept.values())


def _sample(queries: list[Query], max_queries: int | None, seed: int) -> list[Query]:
    if max_queries is None or len(queries) <= max_queries:
        return queries
    drawn = sorted(queries, key=lambda query: draw(seed, "query", query.query_id))[:max_queries]
    chosen = {query.query_id for query in drawn}
    return [query for query in queries if query.query_id in chosen]


def _make(workspace: Workspace, dropped: Counter[str]) -> Iterator[Query]:
    config, prep = workspace.config, workspace.config.prep
    doc_ids, texts = load_passage_texts(workspace)
    held_out = set(load_held_out(workspace))
    eligible = [row for row in range(len(doc_ids)) if row not in held_out]
    if prep.queries == HUMAN:
        dataset = beir.load_dataset(workspace.dataset, "train")
        return human_queries(dataset, {doc_ids[row]: row for row in eligible}, dropped)
    if prep.queries != "extractive":
        raise UserError(f"prep.queries is {prep.queries!r}; known are 'extractive' and 'human'")
    return extract_queries(
        doc_ids,
        texts,
        eligible,
        query_types=tuple(prep.query_types),
        seed=config.seed,
    )


def _work(workspace: Workspace) -> dict[str, Any]:
    config, dropped = workspace.config, Counter[str]()
    made = _make(workspace, dropped)
    test_texts = test_query_texts(workspace.dataset, config.eval.split)
    queries = clean(made, TestQueries(test_texts), dropped)
    queries = _sample(queries, config.prep.max_queries, config.seed)
    if not queries:
        raise UserError(
            f"no training queries: {dict(dropped) or 'the collection has no passages for them'}; "
            "change prep.queries or prep.query_types"
        )
    with atomic_write(workspace.prep / "queries.jsonl") as file:
        for query in queries:
            file.write(json.dumps(asdict(query), ensure_ascii=False) + "\n")
    by_type = Counter(query.query_type for query in queries)
    return {"queries": len(queries), **dict(sorted(by_type.items())), "dropped": dict(dropped)}


def _inputs(workspace: Workspace) -> dict[str, str]:
    root = workspace.dataset
    paths = {path.name: path for path in root.glob("queries.jsonl*")}
    return passages_inputs(workspace) | file_fingerprints(paths | qrels_files(root))


STAGE = Stage(
    name="generate_queries",
    keys=(
        "seed",
        "data.root",
        "data.passage_template",
        "data.max_chars",
        "prep.queries",
        "prep.query_types",
        "prep.max_queries",
    ),
    inputs=_inputs,
    outputs=lambda workspace: [workspace.prep / "queries.jsonl"],
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
