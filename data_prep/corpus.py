"""Stage 1: reading the collection, writing its passage set, and choosing the roles of passages.

The stage leaves RECORDS/passages, WORKDIR/prep/{passages.npz, health.json, health.txt, health.png},
and WORKDIR/prep/rejects/corpus.jsonl where rows were set aside. A collection that is not in BEIR
layout is first converted to it in WORKDIR/dataset. The collection itself is never changed.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from data_prep.corpora import api_docs
from data_prep.corpora.collection import API_DOCS, BEIR, collection_inputs
from data_prep.corpora.cut import find_cuts
from data_prep.corpora.health import RejectCounts, health_report, plot_lengths, render
from data_prep.corpora.hub_judgments import fetch_judgments
from data_prep.corpora.near_duplicates import NearDuplicates, find_near_duplicates
from data_prep.corpora.passages import PASSAGES_PER_FILE, ROLES_NAME, choose_roles
from data_prep.engines.shards import check_rejects
from data_prep.pipeline.settings import QueryOrigin, query_origins
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace
from ldx.common.errors import UserError
from ldx.common.files import atomic_write, write_json
from ldx.common.progress import progress_bar
from ldx.data.tokens import Texts
from ldx.eval import beir
from ldx.eval.passages import hub_name, read_passages
from ldx.eval.rows import BadRow, find_json_lines
from ldx.records.schema import Passage
from ldx.records.sets import PassageSet, PassageTexts, write_passages
from ldx.records.tfds_layout import has_set, record_files


def _make_api_docs(workspace: Workspace) -> dict[str, Any]:
    prep = workspace.settings
    docs = api_docs.collect(prep.packages, prep.max_passages)
    corpus = beir.Corpus(
        [doc.name for doc in docs.docstrings],
        [""] * len(docs.docstrings),
        [doc.body for doc in docs.docstrings],
    )
    queries, qrels = docs.queries()
    beir.write_dataset(workspace.dataset, corpus, queries, {"test": qrels})
    return {"dropped": dict(docs.dropped)}


class _Rejects:
    """A collector of rejected rows, which counts them and writes them to a file."""

    def __init__(self, path: Path):
        self.path, self.counts = path, RejectCounts()
        self._lines: list[dict[str, str]] = []

    def __call__(self, bad: BadRow) -> None:
        self.counts(bad)
        self._lines.append({"id": bad.where, "reason": bad.reason, "excerpt": bad.excerpt})

    def finish(self, num_passages: int, most: float) -> None:
        """Write the rejected rows; raise a UserError if there are too many."""
        self.path.unlink(missing_ok=True)
        if not self._lines:
            return
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in self._lines)
        rows = [{**row, "kind": row["reason"].partition(":")[0]} for row in self._lines]
        check_rejects(
            "corpus",
            {self.path: rows},
            num_passages + len(rows),
            most,
            advice="Once the corpus is mended, run the same command again.",
        )


def _make_dataset(workspace: Workspace, rejects: _Rejects) -> None:
    """Convert the collection that `prep.collection` names to BEIR layout in WORKDIR/dataset.

    Judgments come from the hub, where it has any.
    """
    # Judgments that an earlier collection left here would be taken for those of this one.
    shutil.rmtree(workspace.dataset, ignore_errors=True)
    _make_judgments(workspace)
    with atomic_write(workspace.dataset / "corpus.jsonl") as file:
        for _, passage in read_passages(workspace.settings.collection, reject=rejects):
            record = {"_id": passage.doc_id, "title": passage.title, "text": passage.text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _make_judgments(workspace: Workspace) -> None:
    hub = hub_name(workspace.settings.collection)
    queries, qrels = fetch_judgments(*hub) if hub else ({}, {})
    if not queries:
        return
    root = workspace.dataset
    with atomic_write(root / "queries.jsonl") as file:
        for query_id, text in queries.items():
            file.write(json.dumps({"_id": query_id, "text": text}, ensure_ascii=False) + "\n")
    for split, judged in qrels.items():
        with atomic_write(root / "qrels" / f"{split}.tsv") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id, grades in judged.items():
                file.writelines(f"{query_id}\t{doc}\t{grade}\n" for doc, grade in grades.items())


def _passages(workspace: Workspace, rejects: _Rejects) -> Iterator[Passage]:
    """Yield the good passages; raise a UserError at the end if too many rows were bad."""
    template = workspace.config.data.passage_template
    placed = read_passages(workspace.dataset, reject=rejects, template=template)
    bar = progress_bar(placed, desc="passages", unit=" passages")
    num_passages = 0
    for _, passage in bar:
        yield passage
        num_passages += 1
        if rejects.counts.counts:
            bar.set_postfix_str(f"{rejects.counts.counts.total()} set aside", refresh=False)
    rejects.finish(num_passages, workspace.settings.max_rejects)


def _check_judgments(workspace: Workspace) -> tuple[dict[str, str], dict[str, beir.Qrels]]:
    """Read all queries and judgments, so that a broken file stops the run now, not hours later."""
    root = workspace.dataset
    origins = query_origins(workspace.settings.queries)
    has_queries = find_json_lines(root, "queries") or QueryOrigin.HUMAN in origins
    queries = beir.read_queries(root) if has_queries else {}
    return queries, {split: beir.read_qrels(path) for split, path in beir.qrels_files(root).items()}


def _near_duplicates(workspace: Workspace, texts: PassageTexts) -> NearDuplicates | None:
    prep = workspace.settings
    if not prep.drop_near_duplicates:
        return None
    rows = (texts[row] for row in range(len(texts)))
    workspace.prep.mkdir(parents=True, exist_ok=True)
    return find_near_duplicates(rows, folder=workspace.prep, keep_digits=prep.keep_digits)


def _work(workspace: Workspace) -> dict[str, Any]:
    config, prep = workspace.config, workspace.settings
    rejects = _Rejects(workspace.prep / "rejects" / "corpus.jsonl")
    counts: dict[str, Any] = {}
    if prep.collection == API_DOCS:
        counts = _make_api_docs(workspace)
    elif prep.collection != BEIR:
        _make_dataset(workspace, rejects)
    queries, qrels = _check_judgments(workspace)
    num_passages = write_passages(
        workspace.corpus_records, _passages(workspace, rejects), shard_size=PASSAGES_PER_FILE
    )
    passage_set = PassageSet(workspace.corpus_records)
    texts = PassageTexts(
        passage_set, template=config.data.passage_template, max_chars=config.data.max_chars
    )
    duplicates = _near_duplicates(workspace, texts)
    roles = choose_roles(
        passage_set,
        duplicates,
        num_held_out=prep.num_held_out,
        max_source_passages=prep.max_source_passages,
        seed=config.seed,
    )
    test_qrels = qrels.get(config.eval.split, {})
    test_queries = [text for query_id, text in queries.items() if query_id in test_qrels]
    of_people = [t for q, t in queries.items() if q in qrels.get(prep.human_split, {})]
    of_kinds: dict[str, Texts] = {
        "passages": texts,
        "test queries": test_queries,
        "people's queries": of_people,
    }
    report = health_report(
        (passage_set[row] for row in range(num_passages)),
        template=config.data.passage_template,
        max_chars=config.data.max_chars,
        rejects=rejects.counts,
        near_duplicates=duplicates,
        test_queries=test_queries,
        train_queries=of_people,
        qrels=qrels,
        cuts=find_cuts(config.model, {what: each for what, each in of_kinds.items() if len(each)}),
    )
    write_json(workspace.prep / "health.json", report)
    with atomic_write(workspace.prep / "health.txt") as file:
        file.write(render(report) + "\n")
    plot_lengths(report, workspace.prep / "health.png")
    print(render(report))
    _check_script(workspace, report)
    roles.save(workspace.prep / ROLES_NAME)
    return {
        "passages": num_passages,
        "queries": len(queries),
        "rejected": rejects.counts.counts.total(),
        "near-duplicates": int(roles.duplicate.sum()),
        "cut": report["lengths"]["cut"],
        "held out": int(roles.held_out.sum()),
        "get queries": int(roles.gets_queries.sum()),
        **counts,
    }


def _check_script(workspace: Workspace, report: Mapping[str, Any]) -> None:
    """Refuse to cut queries out of texts that the rules for it are not made for.

    Raises:
      UserError: most passages are mainly not in Latin letters, and nothing else gives queries.
    """
    origins = query_origins(workspace.settings.queries)
    others = report["letters"]["passages_mainly_not_latin"]
    if QueryOrigin.EXTRACTIVE not in origins or 2 * others <= report["passages"]:
        return
    message = (
        f"config.prep.queries={workspace.settings.queries!r}: {others:,} of "
        f"{report['passages']:,} passages are mainly not in Latin letters, and extractive queries "
        "are cut by rules for English; take queries from a log (prep.queries=log), have a language "
        "model write them (llm), or take people's (human)"
    )
    if len(origins) == 1:
        raise UserError(message)
    logging.warning("%s", message)


def _outputs(workspace: Workspace) -> list[Path]:
    paths = [workspace.prep / ROLES_NAME, workspace.prep / "health.json"]
    root = workspace.dataset
    if workspace.settings.collection != BEIR:
        paths.append(root / "corpus.jsonl")
    if workspace.settings.collection == API_DOCS:
        paths += [root / "queries.jsonl", root / "qrels" / "test.tsv"]
    if has_set(workspace.corpus_records, "passages"):
        return paths + record_files(workspace.corpus_records, "passages")
    return [*paths, workspace.corpus_records / "passages" / "missing"]


STAGE = Stage(
    name="corpus",
    keys=(
        "seed",
        "data.root",
        "data.records",
        "data.passage_template",
        "data.max_chars",
        "eval.split",
        "prep.collection",
        "prep.packages",
        "prep.max_passages",
        "prep.max_rejects",
        "prep.drop_near_duplicates",
        "prep.keep_digits",
        "prep.num_held_out",
        "prep.max_source_passages",
        "prep.human_split",
        "prep.queries",
    ),
    inputs=collection_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
