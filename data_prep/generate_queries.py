"""Stage 2: training queries, cut out of passages, written by a language model, or by people.

The stage leaves WORKDIR/prep/queries.jsonl, and in WORKDIR/prep/answers all that was cut out of
passages or answered by the model, before anything is dropped.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from absl import logging

from data_prep.corpora.collection import judged_queries
from data_prep.corpora.leaks import TestQueries
from data_prep.corpora.passages import load_passages, passages_inputs
from data_prep.llm.base import llm_fingerprint
from data_prep.pipeline.draws import draw
from data_prep.pipeline.settings import QueryOrigin, query_origins, types_of
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints
from data_prep.queries.extractive import extractive_queries
from data_prep.queries.human import human_queries
from data_prep.queries.prompt import load_prompts
from data_prep.queries.query import QUERIES_NAME, Collected, Query, write_prepared_queries
from data_prep.queries.written import llm_queries, prompt_facts
from ldx.common.errors import UserError
from ldx.common.texts import only_words
from ldx.eval.beir import qrels_files
from ldx.records.schema import HUMAN_DEV

MIN_QUERY_CHARS = 8
MIN_QUERY_WORDS = 2
EQUAL_SAME_PASSAGE = "equal to another of its passage"
EQUAL_OTHER_PASSAGE = "equal to one of another passage"


def choose(queries: Iterable[Query], test_queries: TestQueries) -> Collected:
    """Drop empty and short queries, and those that give a test query away; merge equal ones.

    Of queries with equal texts, whatever their types, the first stays. Where people wrote it,
    passages judged relevant for the others are relevant for it too. All other passages that the
    others were made from or judged relevant for are never its negatives.
    """
    chosen: dict[str, Query] = {}
    dropped: Counter[str] = Counter()
    for query in queries:
        key = only_words(query.text)
        if not key:
            dropped["nothing to extract"] += 1
        elif query.excerpt and (
            len(query.text) < MIN_QUERY_CHARS or len(key.split()) < MIN_QUERY_WORDS
        ):
            dropped["too short"] += 1
        elif test_queries.leaks_into(query.text):
            dropped["holds a test query"] += 1
        else:
            key_text = " ".join(query.text.casefold().split()).rstrip(".?!")
            first = chosen.setdefault(key_text, query)
            if first is not query:
                same = first.row == query.row and query.row >= 0
                dropped[EQUAL_SAME_PASSAGE if same else EQUAL_OTHER_PASSAGE] += 1
                chosen[key_text] = _merged(first, query)
    return Collected(list(chosen.values()), dropped)


def _merged(first: Query, other: Query) -> Query:
    relevant = dict(first.relevant)
    never = {*first.never_negative, *other.never_negative, other.row, first.row} - {-1, first.row}
    for row, grade in other.relevant.items():
        if first.is_human:
            relevant[row] = max(grade, relevant.get(row, 0))
        else:
            never.add(row)
    irrelevant = {*first.irrelevant, *(other.irrelevant if first.is_human else ())} - set(relevant)
    return replace(
        first,
        relevant=relevant,
        never_negative=sorted(never - set(relevant)),
        irrelevant=sorted(irrelevant),
    )


def _sample(queries: list[Query], max_queries: int | None, seed: int) -> list[Query]:
    if max_queries is None or len(queries) <= max_queries:
        return queries
    train_queries = [query for query in queries if query.query_type != HUMAN_DEV]
    train_queries.sort(key=lambda query: draw(seed, "query", query.query_id))
    sample_ids = {query.query_id for query in train_queries[:max_queries]}
    return [q for q in queries if q.query_id in sample_ids or q.query_type == HUMAN_DEV]


def _make(workspace: Workspace, test_queries: TestQueries) -> Collected:
    """Collect the queries for training, and people's dev queries."""
    passages, engine = load_passages(workspace), workspace.engine
    rows = passages.roles.gets_queries.nonzero()[0]
    origins = query_origins(workspace.settings.queries)
    # Human dev queries come first: of equal texts the first stays, so no dev query is trained on.
    parts = [
        human_queries(workspace, passages.roles, split, query_type)
        for query_type, split in _human_splits(workspace).items()
    ]
    if QueryOrigin.LLM in origins:
        parts.append(llm_queries(workspace, passages, rows, engine))
    queries: list[Iterable[Query]] = [part.queries for part in parts]
    if QueryOrigin.EXTRACTIVE in origins:
        queries.append(extractive_queries(workspace, passages, rows, engine))
    chosen = choose(itertools.chain(*queries), test_queries)
    return Collected(chosen.queries, sum((part.dropped for part in parts), chosen.dropped))


def _human_splits(workspace: Workspace) -> dict[str, str]:
    """The splits of the collection from which people's queries are taken, by query type.

    The dev split is left out where it is also the split for evaluation or for training, and where
    it is the default, `dev`, and does not exist.
    """
    prep, splits = workspace.settings, {}
    train_split = prep.human_split if QueryOrigin.HUMAN in query_origins(prep.queries) else None
    dev = prep.human_dev_split
    exists = dev in qrels_files(workspace.dataset)
    if dev and dev == train_split:
        logging.warning(
            "config.prep.human_dev_split=%r is ignored: config.prep.human_split names the same "
            "split, so its queries are trained on, and dev nDCG@10 is that of the other dev lists",
            dev,
        )
    if dev not in ("", train_split, workspace.config.eval.split) and (exists or dev != "dev"):
        splits[HUMAN_DEV] = dev
    if train_split is not None:
        splits[QueryOrigin.HUMAN.value] = train_split
    return splits


def _work(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config
    test_queries = TestQueries(judged_queries(workspace.dataset, config.eval.split).values())
    collected = _make(workspace, test_queries)
    queries = _sample(collected.queries, workspace.settings.max_queries, config.seed)
    if all(query.query_type == HUMAN_DEV for query in queries):
        reasons = dict(collected.dropped) or "the collection has no passages for them"
        raise UserError(f"no training queries: {reasons}; change prep.queries or prep.query_types")
    by_type: dict[str, list[Query]] = {}
    for query in queries:
        by_type.setdefault(query.query_type, []).append(query)
    write_prepared_queries(workspace.prep / QUERIES_NAME, itertools.chain(*by_type.values()))
    counts = {name: len(of_type) for name, of_type in by_type.items()}
    report: dict[str, Any] = {
        "queries": len(queries),
        **counts,
        "dropped": dict(collected.dropped),
    }
    if QueryOrigin.LLM in query_origins(workspace.settings.queries):
        report["prompts"] = prompt_facts(workspace)
    return report


def _inputs(workspace: Workspace) -> dict[str, str]:
    root, prep = workspace.dataset, workspace.settings
    paths = {path.name: path for path in root.glob("queries.jsonl*")}
    inputs = passages_inputs(workspace) | file_fingerprints(paths | qrels_files(root))
    if QueryOrigin.LLM in query_origins(prep.queries):
        inputs["llm"] = llm_fingerprint(prep.llm)
        for prompt in load_prompts(types_of(prep)):
            rules = f"{prompt.language} {prompt.answer}"
            inputs[f"prompt {prompt.query_type}"] = f"{prompt.fingerprint} {rules}"
    return inputs


STAGE = Stage(
    name="generate_queries",
    keys=(
        "seed",
        "data.root",
        "data.passage_template",
        "data.max_chars",
        "eval.split",
        "prep.queries",
        "prep.query_types",
        "prep.human_split",
        "prep.human_dev_split",
        "prep.max_queries",
        "prep.max_attempts",
        "prep.max_rejects",
        "prep.shard_size",
    ),
    inputs=_inputs,
    outputs=lambda workspace: [workspace.prep / QUERIES_NAME],
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
