"""Stage 5 where `config.prep.list_source` is graded: lists of graded labels, without a teacher.

Leaves WORKDIR/prep/graded/TYPE.npz and graded.json, which tells how many entries each source gave
at each label, and which lists were dropped.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data_prep.corpora.passages import passages_inputs
from data_prep.documents.document import DOCUMENTS_NAME, load_documents
from data_prep.lists.graded import (
    LABEL,
    RESULT_NAME,
    Material,
    Source,
    compose,
    graded_paths,
    graded_sources,
    ordered,
)
from data_prep.lists.human_dev import human_dev_lists
from data_prep.lists.prepared import NEW_LIST, Entry, Lists, labelled_lists, save_lists
from data_prep.pipeline.draws import draw
from data_prep.pipeline.settings import MINED, SYNTHETIC, graded_kinds
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries.query import QUERIES_NAME, QueryShard, query_shards
from data_prep.retrieval.candidates import CANDIDATES_NAME, Candidates, candidate_paths
from ldx.common.errors import UserError
from ldx.common.files import write_json
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import count_passages

ONELABEL = "one label alone"


def materials(workspace: Workspace, parts: Sequence[QueryShard]) -> Iterator[tuple[int, Material]]:
    """What there is for the lists of some queries; each query's place among all goes with it."""
    kinds, seed = graded_kinds(workspace.settings), workspace.config.seed
    paths = candidate_paths(workspace) if MINED in kinds else {}
    written = _written(workspace) if SYNTHETIC in kinds else {}
    for part in parts:
        found = Candidates.load(paths[part.name]) if paths else None
        for place, (number, query) in enumerate(zip(part.numbers, part.queries, strict=True)):
            rows = ranks = np.zeros(0, np.int64)
            if found is not None:
                rows, ranks = found.found(place, query.never_negative)
            yield (
                number,
                Material(
                    query.judged,
                    written.get(query.query_id, {}),
                    rows,
                    ranks,
                    functools.partial(_draw, seed, query.query_id),
                ),
            )


def _draw(seed: int, query_id: str, row: int) -> float:
    return draw(seed, "judged", query_id, str(row))


def _written(workspace: Workspace) -> dict[str, dict[int, int]]:
    """Rows of written passages by query_id and level; they follow the corpus."""
    first = count_passages(workspace.corpus_records)
    written: dict[str, dict[int, int]] = {}
    for row, document in enumerate(load_documents(workspace), first):
        written.setdefault(document.query_id, {})[document.level] = row
    return written


class _Yields:
    """Counts of the entries that sources gave to the lists that stay, and of lists that do not."""

    def __init__(self, sources: Mapping[str, Source]):
        self._sources = sources
        self._labels: dict[str, Counter[int]] = {name: Counter() for name in sources}
        self._short: Counter[str] = Counter()
        self.lists: Counter[str] = Counter()

    def add(self, given: Mapping[str, Sequence[Entry]]) -> None:
        """A list that stays."""
        self.lists[NEW_LIST] += 1
        for name, entries in given.items():
            self._labels[name].update(label for _, label in entries)
            most = self._sources[name].most
            self._short[name] += most is not None and len(entries) < most

    def facts(self, query_type: str) -> dict[str, Any]:
        """For reports; what lists lack is told to the user too."""
        sources = {}
        for name, labels in self._labels.items():
            most, short = self._sources[name].most, self._short[name]
            sources[name] = {
                **{f"{LABEL}{label}": labels[label] for label in sorted(labels, reverse=True)},
                "lists with fewer than wanted": short,
            }
            if short:
                logging.warning(
                    "%s: %d of %d lists have fewer than %s entries of %s; they are shorter",
                    *(query_type, short, self.lists[NEW_LIST], most, name),
                )
        return {"yields": dict(self.lists), "sources": sources}


def _lists_of(
    workspace: Workspace, sources: Mapping[str, Source], query_type: str
) -> tuple[Lists | None, dict[str, Any]]:
    """The lists of a query type, None where there is none, and what is reported of them."""
    if query_type == HUMAN_DEV:
        return human_dev_lists(workspace)
    parts = [p for p in query_shards(workspace) if p.queries[0].query_type == query_type]
    yields = _Yields(sources)
    numbers, lists = [], []
    for number, material in materials(workspace, parts):
        yields.lists["queries"] += 1
        given = compose(sources, material)
        entries = ordered(given)
        labels = {label for _, label in entries}
        if len(labels) < 2:  # nothing to tell apart
            yields.lists[ONELABEL if entries else "no entries"] += 1
            continue
        numbers.append(number)
        lists.append(entries)
        yields.add(given)
    return (labelled_lists(numbers, lists) if lists else None), yields.facts(query_type)


def _work(workspace: Workspace) -> dict[str, Any]:
    sections = workspace.settings.graded
    sources = graded_sources(sections)
    types = dict.fromkeys(part.queries[0].query_type for part in query_shards(workspace))
    facts: dict[str, Any] = {}
    kept, num_lists = [], 0
    for query_type in types:
        lists, facts[query_type] = _lists_of(workspace, sources, query_type)
        if lists is None:
            continue
        kept.append(query_type)
        num_lists += len(lists.numbers)
        save_lists(workspace.prep / "graded" / f"{query_type}.npz", lists)
    if not set(kept) - {HUMAN_DEV}:
        yields = {name: each["yields"] for name, each in facts.items()}
        raise UserError(
            f"no lists: {yields}; a list needs entries of two labels at least, see "
            "config.prep.graded"
        )
    value = {"types": kept, "sources": sections, "facts": facts}
    write_json(workspace.prep / RESULT_NAME, value)
    return {"lists": num_lists, **_told(facts), "sources": sections, "facts": facts}


def _told(facts: Mapping[str, Any]) -> dict[str, str]:
    yields = {name: each["yields"] for name, each in facts.items()}
    return {name: f"{each.get(NEW_LIST, 0)} of {each['queries']}" for name, each in yields.items()}


def _inputs(workspace: Workspace) -> dict[str, str]:
    kinds = graded_kinds(workspace.settings)
    paths = {"queries": needed(workspace.prep / QUERIES_NAME, "generate_queries")}
    if MINED in kinds:
        paths["candidates"] = needed(workspace.prep / CANDIDATES_NAME, "mine")
    if SYNTHETIC in kinds:
        paths["documents"] = needed(workspace.prep / DOCUMENTS_NAME, "generate_documents")
    return passages_inputs(workspace) | file_fingerprints(paths)


def _outputs(workspace: Workspace) -> list[Path]:
    result = workspace.prep / RESULT_NAME
    return [result, *(graded_paths(workspace).values() if result.is_file() else ())]


STAGE = Stage(
    name="grade",
    keys=("seed", "prep.graded", "prep.shard_size"),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
