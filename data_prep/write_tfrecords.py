"""Stage 6: the split, and the TFRecords that the trainer reads, with their manifest.

Leaves RECORDS/lists and RECORDS/manifest.json.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.calibrate import RESULT_NAME, Lists, list_paths, load_lists, read_result
from data_prep.mine import load_order
from data_prep.passages import passages_inputs
from data_prep.queries import QUERIES_NAME, Query, load_queries
from data_prep.settings import HYBRID
from data_prep.stage import (
    Stage,
    Workspace,
    file_fingerprints,
    needed,
    run_as_command,
    stage_counts,
)
from ldx.data.records import (
    ListSource,
    Manifest,
    count_passages,
    records_fingerprint,
    write_lists,
)
from ldx.data.schema import ListRecord
from ldx.data.tfds_layout import record_files
from ldx.errors import UserError
from ldx.files import read_json

ORDER_KEY = "the place of the query in an order of all by the mean embedding of their candidates"
VERSIONED = ("ldx", "numpy", "bm25s", "jax", "torch", "transformers", "vllm", "openai", "ray")
STAGES_BEFORE = ("corpus", "generate_queries", "mine", "score", "calibrate")
LISTS_PER_FILE = 100_000


def _records(
    lists: Lists, queries: list[Query], order: np.ndarray, collection: str
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


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _work(workspace: Workspace) -> dict[str, Any]:
    prep, seed = workspace.config.prep, workspace.config.seed
    queries, order = load_queries(workspace), load_order(workspace)
    paths = list_paths(workspace)
    counts: Counter[str] = Counter()
    for path in paths.values():
        numbers = load_lists(path).numbers
        counts.update(queries[n].split(prep.dev_fraction, seed) for n in numbers.tolist())
    for split in ("train", "dev"):
        if not counts[split]:
            raise UserError(
                f"no {split} lists: there are {sum(counts.values())} lists, and prep.dev_fraction="
                f"{prep.dev_fraction} splits them by their passages; change it, or loosen the "
                "filters that prep/calibrate.json reports"
            )

    def of_split(split: str) -> Iterator[ListRecord]:
        for path in paths.values():
            lists = load_lists(path)
            splits = [queries[n].split(prep.dev_fraction, seed) for n in lists.numbers.tolist()]
            here = np.array([each == split for each in splits], bool)
            some = Lists(*(values[here] for values in vars(lists).values()))
            yield from _records(some, queries, order, workspace.collection)

    splits = {split: of_split(split) for split in ("train", "dev")}
    num_lists = write_lists(workspace.records, splits, shard_size=LISTS_PER_FILE)
    _verify(workspace.records, num_lists)
    _manifest(workspace, num_lists).write(workspace.records)
    return {split: counts[split] for split in ("train", "dev")} | {"by type": num_lists}


def _verify(records: Path, num_lists: dict[str, dict[str, int]]) -> None:
    """Read every list back: its checksum, its fields, and their counts."""
    for split, expected in num_lists.items():
        source = ListSource(records, split)
        found = Counter(source[number].query_type for number in range(len(source)))
        if dict(found) != expected:
            raise UserError(
                f"{records}: of the {split} lists {dict(found)} can be read, written were "
                f"{expected}; is the disk sound? Run the same command again"
            )


def _manifest(workspace: Workspace, num_lists: dict[str, dict[str, int]]) -> Manifest:
    config, result = workspace.config, read_result(workspace)
    names = ("passages", "lists")
    queries = read_json(workspace.prep / "generate_queries.json")["counts"]
    return Manifest(
        collection=workspace.collection,
        num_passages=count_passages(workspace.records),
        num_lists=num_lists,
        fingerprints={name: records_fingerprint(workspace.records, name) for name in names},
        passage_template=config.data.passage_template,
        max_chars=config.data.max_chars,
        teachers=_teachers(workspace),
        seed=config.seed,
        calibration=result["calibration"],
        order_key=ORDER_KEY,
        prompts=queries.get("prompts", {}),
        yields=stage_counts(workspace, STAGES_BEFORE),
        versions=_versions(),
    )


def _teachers(workspace: Workspace) -> list[dict[str, Any]]:
    """Each teacher's settings, and what the scoring stage found out."""
    facts = stage_counts(workspace, ("score",))["score"]
    teachers = []
    for name, section in workspace.config.prep.teachers.to_dict().items():
        teacher = {"name": name, **section}
        if section["kind"] == HYBRID:
            retrievers = workspace.config.prep.retrievers.to_dict()
            teacher |= {"dense_weight": facts[name]["dense weight"], "retrievers": retrievers}
        teachers.append(teacher)
    return teachers


def _inputs(workspace: Workspace) -> dict[str, str]:
    paths = {
        "queries": needed(workspace.prep / QUERIES_NAME, "generate_queries"),
        "order": needed(workspace.prep / "order.npy", "mine"),
        "calibration": needed(workspace.prep / RESULT_NAME, "calibrate"),
    }
    for name in STAGES_BEFORE:  # what they counted goes into the manifest
        paths[f"stage {name}"] = needed(workspace.prep / f"{name}.json", name)
    paths |= {f"lists {name}": path for name, path in list_paths(workspace).items()}
    return passages_inputs(workspace) | file_fingerprints(paths)


def _outputs(workspace: Workspace) -> list[Path]:
    manifest = workspace.records / "manifest.json"
    lists = record_files(workspace.records, "lists") if manifest.is_file() else []
    return [manifest, *lists]


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
    ),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
