"""Stage 6: splitting the lists, and writing the TFRecords for the trainer, with their manifest.

The stage leaves RECORDS/lists and RECORDS/manifest.json, and where a language model wrote passages
also RECORDS/passages, in which the passages of the corpus come first.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data_prep.corpora.passages import PASSAGES_PER_FILE, Roles, passages_inputs, roles_path
from data_prep.documents.document import DOCUMENTS_NAME, join_passages, load_documents
from data_prep.lists.prepared import PreparedLists, load_lists
from data_prep.lists.results import TAUGHT_FILES, judges_of, list_files
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.settings import HYBRID, LabelOrigin, has_documents
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed, stage_counts
from data_prep.queries.query import QUERIES_NAME, Query, load_queries
from data_prep.retrieval.candidates import ORDER_NAME, load_order
from ldx.common.errors import UserError
from ldx.common.progress import progress_bar
from ldx.common.versions import installed_versions
from ldx.records.coverage import Coverage
from ldx.records.manifest import Manifest
from ldx.records.schema import HUMAN_DEV, HUMAN_TYPES, LOG, Judge, ListRecord
from ldx.records.sets import (
    ListSet,
    PassageSet,
    count_passages,
    records_fingerprint,
    write_lists,
    write_passages,
)
from ldx.records.tfds_layout import record_files

ORDER_KEY = "the place of the query in an order of all by the mean embedding of their candidates"
VERSIONED = ("ldx", "numpy", "bm25s", "jax", "torch", "transformers", "vllm", "openai", "ray")
LISTS_PER_FILE = 100_000


def _records(
    lists: PreparedLists, queries: list[Query], order: np.ndarray, collection: str
) -> Iterator[ListRecord]:
    for at, number in enumerate(lists.numbers.tolist()):
        query = queries[number]
        size = int((lists.rows[at] >= 0).sum())
        yield ListRecord(
            list_id=f"{collection}/{query.query_id}",
            query_id=query.query_id,
            query=query.text,
            query_type=query.query_type,
            source=collection,
            source_row=query.row,
            rows=lists.rows[at, :size],
            labels=lists.labels[at, :size],
            teacher_scores=lists.teacher_scores[at, :size],
            raw_scores=lists.raw_scores[at, :, :size].ravel(),
            order_key=int(order[number]),
        )


def _work(workspace: Workspace) -> dict[str, Any]:
    prep, seed = workspace.settings, workspace.config.seed
    queries = load_queries(workspace)
    is_mined = "mine" in _stages_before(workspace)
    order = load_order(workspace) if is_mined else np.arange(len(queries))
    files = list_files(workspace)
    paths = files.paths(workspace)
    counts: Counter[str] = Counter()
    for query_type, path in paths.items():
        if query_type != HUMAN_DEV:  # losses need dev lists of the other types
            numbers = load_lists(path).numbers
            counts.update(queries[n].split(prep.dev_fraction, seed) for n in numbers.tolist())
    for split in ("train", "dev"):
        if not counts[split]:
            raise UserError(
                f"no {split} lists: there are {sum(counts.values())} lists, not counting those of "
                f"prep.human_dev_split, and prep.dev_fraction={prep.dev_fraction} splits them by "
                f"their passages, or for a log by their words; change that fraction, or loosen the "
                f"filters that "
                f"{files.result_path(workspace)} reports"
            )

    def of_split(split: str) -> Iterator[ListRecord]:
        for path in paths.values():
            lists = load_lists(path)
            splits = [queries[n].split(prep.dev_fraction, seed) for n in lists.numbers.tolist()]
            split_lists = lists.take(np.array([name == split for name in splits], bool))
            yield from _records(split_lists, queries, order, workspace.collection)

    if has_documents(prep):
        corpus = PassageSet(workspace.corpus_records)
        joined = join_passages((corpus[n] for n in range(len(corpus))), load_documents(workspace))
        bar = progress_bar(joined, desc="passages", unit=" passages")
        write_passages(workspace.records, bar, shard_size=PASSAGES_PER_FILE)
    splits = {split: of_split(split) for split in ("train", "dev")}
    num_lists = write_lists(workspace.records, splits, shard_size=LISTS_PER_FILE)
    _verify(workspace.records, num_lists)
    coverage = _coverage(workspace)
    _manifest(workspace, num_lists, coverage).write(workspace.records)
    return {split: sum(num_lists[split].values()) for split in splits} | {
        "by type": num_lists,
        "coverage": dataclasses.asdict(coverage),
    }


def _coverage(workspace: Workspace) -> Coverage:
    """How much of the corpus the training lists touch; a warning is logged where it is little."""
    lists = ListSet(workspace.records, "train")
    may_hold = ~Roles.load(roles_path(workspace)).excluded
    coverage = Coverage.of_lists((lists[n].rows for n in range(len(lists))), may_hold)
    logging.info("coverage: %s", coverage.sentence())
    if advice := coverage.advice():
        logging.warning("coverage: %s", advice)
    return coverage


def _verify(records: Path, num_lists: dict[str, dict[str, int]]) -> None:
    """Read every list back, which checks its checksum and fields, and compare the counts."""
    for split, expected in num_lists.items():
        lists = ListSet(records, split)
        counts = Counter(lists[number].query_type for number in range(len(lists)))
        if dict(counts) != expected:
            raise UserError(
                f"{records}: {expected} {split} lists were written, but {dict(counts)} can be "
                "read; is the disk sound? Run the same command again"
            )


def _manifest(
    workspace: Workspace, num_lists: dict[str, dict[str, int]], coverage: Coverage
) -> Manifest:
    config, stages = workspace.config, _stages_before(workspace)
    names = ("passages", "lists")
    yields = stage_counts(workspace, stages)
    yields["write_tfrecords"] = {"coverage": dataclasses.asdict(coverage)}
    prompts = yields["generate_queries"].get("prompts", {})
    if "generate_documents" in stages:
        prompts = {**prompts, "documents": yields["generate_documents"]["prompt"]}
    has_teachers = "calibrate" in stages
    num_passages = count_passages(workspace.records)
    return Manifest(
        collection=workspace.collection,
        num_passages=num_passages,
        num_synthetic_passages=num_passages - count_passages(workspace.corpus_records),
        num_lists=num_lists,
        judges=_judges(workspace),
        fingerprints={name: records_fingerprint(workspace.records, name) for name in names},
        passage_template=config.data.passage_template,
        max_chars=config.data.max_chars,
        teachers=_teachers(workspace) if has_teachers else [],
        seed=config.seed,
        calibration=TAUGHT_FILES.read_result(workspace)["calibration"] if has_teachers else {},
        order_key=ORDER_KEY if "mine" in stages else "",
        prompts=prompts,
        yields=yields,
        settings=json.loads(config.prep.to_json()),
        versions=installed_versions(VERSIONED),
    )


def _judges(workspace: Workspace) -> dict[str, list[str]]:
    """The judges of the lists for queries that people wrote, by query type."""
    is_graded = workspace.settings.list_source == LabelOrigin.GRADED
    judges: dict[str, list[str]] = {}
    for name in list_files(workspace).paths(workspace):
        if name in HUMAN_TYPES:
            judge = Judge.TEACHER if name == LOG else Judge.PEOPLE
            by_rules = is_graded and name != HUMAN_DEV
            judges[name] = judges_of(workspace, name) if by_rules else [judge]
    return judges


def _teachers(workspace: Workspace) -> list[dict[str, Any]]:
    """The settings of each teacher, and for a hybrid also its chosen weight and its retrievers."""
    facts = stage_counts(workspace, ("score",))["score"]
    teachers = []
    for name, section in workspace.settings.teachers.items():
        teacher = {"name": name, **section}
        if section["kind"] == HYBRID:
            retrievers = workspace.settings.retrievers
            teacher |= {"dense_weight": facts[name]["dense weight"], "retrievers": retrievers}
        teachers.append(teacher)
    return teachers


def _stages_before(workspace: Workspace) -> tuple[str, ...]:
    stages = stages_of(workspace.settings)
    return stages[: stages.index("write_tfrecords")]


def _inputs(workspace: Workspace) -> dict[str, str]:
    stages, files = _stages_before(workspace), list_files(workspace)
    paths = {
        "queries": needed(workspace.prep / QUERIES_NAME, "generate_queries"),
        "made by": files.result_path(workspace),
    }
    if "mine" in stages:
        paths["order"] = needed(workspace.prep / ORDER_NAME, "mine")
    if "generate_documents" in stages:
        paths["documents"] = needed(workspace.prep / DOCUMENTS_NAME, "generate_documents")
    for name in stages:  # the manifest holds their counts
        paths[f"stage {name}"] = needed(workspace.prep / f"{name}.json", name)
    paths |= {f"lists {name}": path for name, path in files.paths(workspace).items()}
    return passages_inputs(workspace) | file_fingerprints(paths)


def _outputs(workspace: Workspace) -> list[Path]:
    manifest = workspace.records / "manifest.json"
    if not manifest.is_file():
        return [manifest]
    sets = ("passages", "lists") if has_documents(workspace.settings) else ("lists",)
    return [manifest, *(path for name in sets for path in record_files(workspace.records, name))]


STAGE = Stage(
    name="write_tfrecords",
    keys=(
        "seed",
        "data.root",
        "data.records",
        "data.passage_template",
        "data.max_chars",
        "prep.collection",
        "prep.dev_fraction",
        "prep.retrievers",
        "prep.teachers",
        "prep.list_source",
    ),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
