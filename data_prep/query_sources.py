"""Where training queries come from: cut out of passages, written by a language model, or by people.

Answers are shards of WORKDIR/prep/answers: what a generator gave for a passage, before anything is
dropped, so that new rules for what is a query need no new answer.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.answers import clean
from data_prep.asking import Asker, Wanted
from data_prep.bm25 import Bm25
from data_prep.corpora.passages import Passages, Roles, doc_ids_where, passages_of, passages_payload
from data_prep.engines.shards import (
    Engine,
    Made,
    Payload,
    Shard,
    ShardFolder,
    json_lines,
    read_json_lines,
    shard_key,
)
from data_prep.extractive import TYPES, Extractor
from data_prep.llm import Answer, LlmConfig, Request, llm_fingerprint
from data_prep.pipeline.settings import types_of
from data_prep.pipeline.workspace import Workspace
from data_prep.prompts import Prompt, load_prompts, request_seed
from data_prep.queries import Query
from ldx.common.errors import UserError
from ldx.common.sections import build
from ldx.eval import beir
from ldx.records.sets import PassageSource

VERSION = 2
"""Raised when the same passage gives another extractive answer than before."""


def extractive_queries(
    workspace: Workspace, passages: Passages, rows: np.ndarray, engine: Engine
) -> Iterator[Query]:
    """One query of each extractive type for each passage; its text may be empty.

    Raises:
      UserError: a type is unknown, or there is none.
    """
    config, types = workspace.config, types_of(workspace.config.prep)
    unknown = [name for name in types if name not in TYPES]
    if unknown or not types:
        raise UserError(
            f"config.prep.query_types={types}: of extractive queries known are {', '.join(TYPES)}"
        )
    folder = ShardFolder(workspace.prep / "answers", ".jsonl")
    index = Bm25.open_or_build(workspace.prep / "bm25", passages.texts, key=passages.key)
    make_worker = functools.partial(_Extracting, index, config.seed)
    for query_type in types:
        key = f"extractive {VERSION} {config.seed} {passages.key}"
        shards = _shards(workspace, passages, rows, query_type, key, config.prep.shard_size)
        paths = folder.make(make_worker, shards, engine, description=query_type, unit="passages")
        for path in paths:
            for answer in read_json_lines(path):
                yield Query(
                    f"{answer['doc_id']}:{query_type}",
                    query_type,
                    answer["text"],
                    answer["row"],
                    answer["excerpt"],
                    {},
                    answer["doc_id"],
                )


class _Extracting:
    def __init__(self, index: Bm25, seed: int):
        self._extractor = Extractor(index.rarity, seed)

    def __call__(self, payload: Payload) -> Made:
        lines = []
        for row, doc_id, passage in passages_of(payload):
            text, excerpt = self._extractor.make(payload["query_type"], doc_id, passage)
            lines.append({"row": row, "doc_id": doc_id, "text": text, "excerpt": excerpt})
        return Made(json_lines(lines))


def _shards(
    workspace: Workspace, passages: Passages, rows: np.ndarray, query_type: str, key: str, size: int
) -> list[Shard]:
    """Shards of passages that queries of a type are cut out of."""
    source = PassageSource(workspace.corpus_records)

    def payload(some: np.ndarray) -> Payload:
        return passages_payload(source, passages, query_type, some.tolist())

    return [
        Shard(
            f"{query_type}-{start // size:05d}",
            shard_key(key, passages.key, query_type, rows[start : start + size].tobytes()),
            len(rows[start : start + size]),
            functools.partial(payload, rows[start : start + size]),
        )
        for start in range(0, len(rows), size)
    ]


@dataclass(frozen=True)
class Questions:
    """What is asked for the queries of a shard of passages, and what is kept of the answers."""

    prompts: Mapping[str, Prompt]
    seed: int

    def requests(self, payload: Payload) -> list[Request]:
        """One for each passage of `payload`."""
        prompt, attempt = self.prompts[payload["query_type"]], payload["attempt"]
        return [
            Request(
                prompt.messages(passage, doc_id, self.seed),
                prompt.sampling,
                request_seed(self.seed, doc_id, prompt.query_type, attempt),
            )
            for _, doc_id, passage in passages_of(payload)
        ]

    def made(self, payload: Payload, answers: Sequence[Answer]) -> Made:
        """The answers, a JSON object a line; requests that failed are rejects too."""
        lines, rejects = [], []
        rows = zip(passages_of(payload), payload["asked"], answers, strict=True)
        for (_, doc_id, _), asked, answer in rows:
            lines.append({"asked": asked, "doc_id": doc_id, **vars(answer)})
            if answer.error:
                rejects.append({"id": f"{doc_id} {payload['query_type']}", "reason": answer.error})
        return Made(json_lines(lines), rejects, len(lines))


def llm_queries(
    workspace: Workspace,
    passages: Passages,
    rows: np.ndarray,
    engine: Engine,
    dropped: Counter[str],
) -> Iterator[Query]:
    """One query of each prompt for each passage; a bad answer is asked for again.

    Args:
      dropped: counts the bad answers by reason, and passages that gave none in the end.
    """
    config, prep = workspace.config, workspace.config.prep
    llm = build(LlmConfig, prep.llm.to_dict(), "prep.llm")
    prompts = {prompt.query_type: prompt for prompt in load_prompts(types_of(prep))}
    keys = {
        query_type: f"{prompt.fingerprint} {llm_fingerprint(llm)} {config.seed}"
        for query_type, prompt in prompts.items()
    }
    source, texts = PassageSource(workspace.corpus_records), passages.texts

    def key(query_type: str, row: int, attempt: int) -> str:
        return shard_key(f"{keys[query_type]} {attempt}", source[row].doc_id, texts[row])

    def payload(query_type: str, some: list[int], attempt: int) -> Payload:
        return {**passages_payload(source, passages, query_type, some), "attempt": attempt}

    def judge(query_type: str, row: int, answer: Mapping[str, Any]) -> tuple[str, str]:
        return clean(answer["text"], prompts[query_type], texts[row], answer["finish_reason"])

    wanted = Wanted(
        "queries",
        {query_type: rows.tolist() for query_type in prompts},
        key,
        payload,
        lambda query_type, answer: f"{answer['doc_id']} {query_type}",
        len(prompts) * int(passages.roles.source.sum()),
    )
    asker = Asker(workspace, engine, workspace.prep / "answers", Questions(prompts, config.seed))
    for query_type, row, answer, text in asker.ask(wanted, judge, dropped):
        doc_id = answer["doc_id"]
        yield Query(f"{doc_id}:{query_type}", query_type, text, row, "", {}, doc_id)


def human_queries(
    workspace: Workspace, roles: Roles, split: str, query_type: str, dropped: Counter[str]
) -> Iterator[Query]:
    """The judged queries of a split of the collection.

    Held-out passages are left out; a near-duplicate stands for the passage that holds it.

    Args:
      roles: of the passages.
      split: of the qrels.
      query_type: of the queries.
      dropped: counts the queries that have no relevant passage left.
    """
    qrels = beir.read_qrels(beir.find_qrels(workspace.dataset, split))
    texts = beir.read_queries(workspace.dataset)
    judged = {doc_id for grades in qrels.values() for doc_id in grades}
    found = doc_ids_where(workspace.corpus_records, judged)
    held_by = {
        doc_id: int(roles.container[row]) if roles.duplicate[row] else row for row, doc_id in found
    }
    row_of = {d: row for d, row in held_by.items() if row >= 0 and not roles.held_out[row]}
    for query_id, grades in qrels.items():
        if query_id not in texts:
            dropped[f"{query_type}: not in the queries file"] += 1
            continue
        relevant: dict[int, int] = {}
        for doc_id, grade in grades.items():
            if grade > 0 and doc_id in row_of:
                row = row_of[doc_id]
                relevant[row] = max(grade, relevant.get(row, 0))
        others = {row_of[doc_id] for doc_id in grades if doc_id in row_of} - set(relevant)
        if not relevant:
            dropped[f"{query_type}: no relevant passage"] += 1
            continue
        best = max(relevant.values())
        first = min(row for row, grade in relevant.items() if grade == best)
        group = next(d for d in grades if row_of.get(d) == first)
        yield Query(
            query_id,
            query_type,
            texts[query_id],
            -1,
            "",
            relevant,
            group,
            irrelevant=sorted(others),
        )


def prompt_facts(workspace: Workspace) -> dict[str, Any]:
    """What the manifest tells of prompts: the model, and of each its version, hash and sampling."""
    prep: Any = workspace.config.prep
    prompts = load_prompts(types_of(prep))
    shown: Sequence[Prompt] = prompts
    return {
        "model": prep.llm.model,
        "backend": prep.llm.backend,
        **{
            prompt.query_type: {
                "version": prompt.version,
                "fingerprint": prompt.fingerprint,
                "language": prompt.language,
                **vars(prompt.sampling),
            }
            for prompt in shown
        },
    }
