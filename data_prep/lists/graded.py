"""Making of lists of graded labels, without a teacher, by the rules of `config.prep.graded`."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from absl import logging

from data_prep.documents.document import load_documents
from data_prep.lists.entry_rules import EntryRule, Material, choose_all, ordered
from data_prep.lists.human_dev import human_dev_lists
from data_prep.lists.prepared import Entry, TypeLists, labelled_lists
from data_prep.lists.results import LABEL
from data_prep.pipeline.draws import draw
from data_prep.pipeline.settings import EntryKind, graded_kinds
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import QueryShard, shards_of_type
from data_prep.retrieval.candidates import Candidates, candidate_paths
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import count_passages


@dataclass(frozen=True)
class _GradedList:
    """The list of one query.

    Attributes:
      number: the query's place among all.
      by_rule: the list's entries, by the rule that gave them.
    """

    number: int
    by_rule: Mapping[str, Sequence[Entry]]

    @property
    def entries(self) -> list[Entry]:
        """All entries in the order of the list."""
        return ordered(self.by_rule)

    @property
    def num_labels(self) -> int:
        """The number of distinct labels; a list with fewer than two teaches nothing."""
        return len({entry.label for entry in self.entries})


def graded_lists(
    workspace: Workspace, rules: Mapping[str, EntryRule], query_type: str
) -> TypeLists:
    """The lists of a query type, and what is reported of them."""
    if query_type == HUMAN_DEV:
        return human_dev_lists(workspace)
    parts = shards_of_type(workspace, query_type)
    all_lists = [
        _GradedList(number, choose_all(rules, material))
        for number, material in materials(workspace, parts)
    ]
    lists = [each for each in all_lists if each.num_labels > 1]
    num_empty = sum(not each.num_labels for each in all_lists)
    yields = {
        "queries": len(all_lists),
        "no entries": num_empty,
        "one label alone": len(all_lists) - num_empty - len(lists),
        "lists": len(lists),
    }
    facts = {
        "yields": {name: count for name, count in yields.items() if count},
        "sources": _rule_facts(query_type, rules, lists),
    }
    if not lists:
        return TypeLists(None, len(all_lists), facts)
    numbers = [each.number for each in lists]
    labelled = labelled_lists(numbers, [each.entries for each in lists])
    return TypeLists(labelled, len(all_lists), facts)


def _rule_facts(
    query_type: str, rules: Mapping[str, EntryRule], lists: Sequence[_GradedList]
) -> dict[str, dict[str, int]]:
    """Counts of the entries that each rule gave; a warning says what lists lack."""
    facts = {}
    for name, rule in rules.items():
        of_rule = [each.by_rule[name] for each in lists]
        labels = Counter(entry.label for entries in of_rule for entry in entries)
        num_short = sum(rule.most is not None and len(entries) < rule.most for entries in of_rule)
        facts[name] = {
            **{f"{LABEL}{label}": labels[label] for label in sorted(labels, reverse=True)},
            "lists with fewer than wanted": num_short,
        }
        if num_short:
            logging.warning(
                "%s: %d of %d lists have fewer than %s entries of %s; they are shorter",
                *(query_type, num_short, len(lists), rule.most, name),
            )
    return facts


def materials(workspace: Workspace, parts: Sequence[QueryShard]) -> Iterator[tuple[int, Material]]:
    """The material for the list of each query, after the query's place among all."""
    kinds, seed = graded_kinds(workspace.settings), workspace.config.seed
    paths = candidate_paths(workspace) if EntryKind.MINED in kinds else {}
    written = _written_rows(workspace) if EntryKind.SYNTHETIC in kinds else {}
    for part in parts:
        candidates = Candidates.load(paths[part.name]) if paths else None
        for place, (number, query) in enumerate(zip(part.numbers, part.queries, strict=True)):
            rows = ranks = np.zeros(0, np.int64)
            if candidates is not None:
                rows, ranks = candidates.of_query(place, query.never_negative)
            yield (
                number,
                Material(
                    judged=query.judged,
                    written=written.get(query.query_id, {}),
                    mined=rows,
                    ranks=ranks,
                    draw=functools.partial(_draw, seed, query.query_id),
                ),
            )


def _draw(seed: int, query_id: str, row: int) -> float:
    return draw(seed, "judged", query_id, str(row))


def _written_rows(workspace: Workspace) -> dict[str, dict[int, int]]:
    """Rows of written passages by query_id and level; they begin after the rows of the corpus."""
    first = count_passages(workspace.corpus_records)
    rows: dict[str, dict[int, int]] = {}
    for row, document in enumerate(load_documents(workspace), first):
        rows.setdefault(document.query_id, {})[document.level] = row
    return rows
