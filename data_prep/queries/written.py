"""Queries that a language model writes for passages."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.corpora.passages import Passages, passages_of, passages_payload
from data_prep.engines.shards import Engine, Made, Payload, json_lines, shard_key
from data_prep.llm.asking import Asker, Wanted
from data_prep.llm.base import Answer, Request, llm_fingerprint
from data_prep.pipeline.settings import types_of
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.answer import clean
from data_prep.queries.prompt import Prompt, load_prompts, request_seed
from data_prep.queries.query import Query
from ldx.records.sets import PassageSet


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
    config, prep = workspace.config, workspace.settings
    llm = prep.llm
    prompts = {prompt.query_type: prompt for prompt in load_prompts(types_of(prep))}
    keys = {
        query_type: f"{prompt.fingerprint} {llm_fingerprint(llm)} {config.seed}"
        for query_type, prompt in prompts.items()
    }
    passage_set, texts = PassageSet(workspace.corpus_records), passages.texts

    def key(query_type: str, row: int, attempt: int) -> str:
        return shard_key(f"{keys[query_type]} {attempt}", passage_set[row].doc_id, texts[row])

    def payload(query_type: str, some: list[int], attempt: int) -> Payload:
        return {**passages_payload(passage_set, passages, query_type, some), "attempt": attempt}

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


def prompt_facts(workspace: Workspace) -> dict[str, Any]:
    """What the manifest tells of prompts: the model, and of each its version, hash and sampling."""
    prep = workspace.settings
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
