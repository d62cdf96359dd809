"""Stage 2: training queries, cut out of passages, written by a language model, or people's.

People's are those of the collection with their judgments, or what was typed (a log).

The stage leaves WORKDIR/prep/queries.jsonl, and in WORKDIR/prep/answers all that was cut out of
passages or answered by the model, before anything is dropped.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from absl import logging

from data_prep.corpora.collection import judged_queries
from data_prep.corpora.leaks import TestQueries
from data_prep.corpora.passages import Passages, load_passages, passages_inputs
from data_prep.llm.base import llm_fingerprint
from data_prep.pipeline.draws import draw
from data_prep.pipeline.settings import QueryOrigin, query_origins, types_of
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints
from data_prep.queries.coverage import sample_evenly
from data_prep.queries.extractive import extractive_queries
from data_prep.queries.human import human_queries
from data_prep.queries.log import log_path, log_queries, split_of_log
from data_prep.queries.prompt import load_prompts
from data_prep.queries.query import QUERIES_NAME, Collected, Query, write_prepared_queries
from data_prep.queries.written import llm_queries, prompt_facts
from data_prep.retrieval.analyzer import Analyzer
from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.common.texts import only_words
from ldx.eval.beir import qrels_files
from ldx.records.schema import HUMAN_DEV, LOG

MIN_QUERY_CHARS = 8
MIN_QUERY_WORDS = 2
EQUAL_SAME_PASSAGE = "equal to another of its passage"
EQUAL_OTHER_PASSAGE = "equal to one of another passage"
EQUAL_OTHER_ORIGIN = "equal to one of another origin"


def choose(queries: Iterable[Query], test_queries: TestQueries) -> Collected:
    """Drop empty and short queries, and those that give a test query away; merge equal ones.

    Of queries with equal texts, whatever their types, the first stays. Where people judged it,
    passages judged relevant for the others are relevant for it too. All other passages that the
    others were made from or judged relevant for are never its negatives. A query of a log stays as
    it is: the teacher alone says how relevant each passage is to it.
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
                dropped[_equality(first, query)] += 1
                chosen[key_text] = _merged(first, query)
    return Collected(list(chosen.values()), dropped)


def _equality(first: Query, other: Query) -> str:
    """In which way a query is equal to another that stays."""
    if LOG in (first.query_type, other.query_type):
        return EQUAL_OTHER_ORIGIN
    same = first.row == other.row and other.has_own_passage
    return EQUAL_SAME_PASSAGE if same else EQUAL_OTHER_PASSAGE


def _merged(first: Query, other: Query) -> Query:
    if first.query_type == LOG:
        return first
    relevant = dict(first.relevant)
    never = {*first.never_negative, *other.never_negative, other.row, first.row} - {-1, first.row}
    for row, grade in other.relevant.items():
        if first.is_judged:
            relevant[row] = max(grade, relevant.get(row, 0))
        else:
            never.add(row)
    irrelevant = {*first.irrelevant, *(other.irrelevant if first.is_judged else ())} - set(relevant)
    return replace(
        first,
        relevant=relevant,
        never_negative=sorted(never - set(relevant)),
        irrelevant=sorted(irrelevant),
    )


def _sample(
    workspace: Workspace, passages: Passages, queries: list[Query], log_counts: Mapping[str, int]
) -> list[Query]:
    """At most `config.prep.max_queries` of the queries, and all of people's dev queries.

    They are drawn at random; but as many queries of a log as were drawn are then chosen anew, so
    that the passages they reach are covered evenly.
    """
    max_queries, seed = workspace.settings.max_queries, workspace.config.seed
    if max_queries is None or len(queries) <= max_queries:
        return queries
    train_queries = [query for query in queries if query.query_type != HUMAN_DEV]
    train_queries.sort(key=lambda query: draw(seed, "query", query.query_id))
    drawn = train_queries[:max_queries]
    num_log = sum(query.query_type == LOG for query in drawn)
    sample = [query for query in drawn if query.query_type != LOG]
    if num_log:
        of_log = [query for query in train_queries if query.query_type == LOG]
        sample += sample_evenly(workspace, passages, of_log, log_counts, num_log)
    sample_ids = {query.query_id for query in sample}
    return [q for q in queries if q.query_id in sample_ids or q.query_type == HUMAN_DEV]


@dataclass(frozen=True)
class _Made:
    """The queries of all origins, and how often those of a log were typed, by query_id."""

    collected: Collected
    log_counts: Mapping[str, int]


def _make(workspace: Workspace, passages: Passages, test_queries: TestQueries) -> _Made:
    """Collect the queries for training, and people's dev queries."""
    engine = workspace.engine
    rows = passages.roles.gets_queries.nonzero()[0]
    origins = query_origins(workspace.settings.queries)
    # Human dev queries come first: of equal texts the first stays, so no dev query is trained on.
    parts = [
        human_queries(workspace, passages.roles, split, query_type)
        for query_type, split in _human_splits(workspace).items()
    ]
    log_counts: Mapping[str, int] = {}
    if QueryOrigin.LOG in origins:
        dev = [q.text for part in parts for q in part.queries if q.query_type == HUMAN_DEV]
        log = log_queries(workspace, test_queries, TestQueries(dev))
        parts.append(Collected(log.queries, log.dropped))
        log_counts = log.counts
    if QueryOrigin.LLM in origins:
        parts.append(llm_queries(workspace, passages, rows, engine))
    queries: list[Iterable[Query]] = [part.queries for part in parts]
    if QueryOrigin.EXTRACTIVE in origins:
        queries.append(extractive_queries(workspace, passages, rows, engine))
    chosen = choose(itertools.chain(*queries), test_queries)
    dropped = sum((part.dropped for part in parts), chosen.dropped)
    return _Made(Collected(chosen.queries, dropped), log_counts)


def _human_splits(workspace: Workspace) -> dict[str, str]:
    """The splits of the collection from which people's queries are taken, by query type.

    The dev split is left out where it is also the split for evaluation or for training, and where
    it is the default, `dev`, and does not exist.
    """
    prep, splits = workspace.settings, {}
    origins = query_origins(prep.queries)
    trained_on = {}
    if QueryOrigin.HUMAN in origins:
        trained_on["human_split"] = prep.human_split
    if QueryOrigin.LOG in origins and split_of_log(prep.log):
        trained_on["log"] = split_of_log(prep.log)
    dev = prep.human_dev_split
    exists = dev in qrels_files(workspace.dataset)
    for key, split in trained_on.items():
        if dev and dev == split:
            logging.warning(
                "config.prep.human_dev_split=%r is ignored: config.prep.%s names the same split, "
                "so its queries are trained on, and dev nDCG@10 is that of the other dev lists",
                *(dev, key),
            )
    others = {"", *trained_on.values(), workspace.config.eval.split}
    if dev not in others and (exists or dev != "dev"):
        splits[HUMAN_DEV] = dev
    if QueryOrigin.HUMAN in origins:
        splits[QueryOrigin.HUMAN.value] = prep.human_split
    return splits


def _work(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config
    prep = workspace.settings
    if prep.log and QueryOrigin.LOG not in query_origins(prep.queries):
        logging.warning(
            "config.prep.log=%s is not read: config.prep.queries=%s does not name log",
            *(prep.log, prep.queries),
        )
    test_queries = TestQueries(judged_queries(workspace.dataset, config.eval.split).values())
    passages = load_passages(workspace)
    made = _make(workspace, passages, test_queries)
    collected = made.collected
    queries = _sample(workspace, passages, collected.queries, made.log_counts)
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
    inputs["terms"] = Analyzer(prep.language).key
    if QueryOrigin.LOG in query_origins(prep.queries):
        path = log_path(prep.log)
        inputs["log"] = prep.log if path is None else fingerprint(path)
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
    run_as_command(STAGE.main, on_engine=True)
