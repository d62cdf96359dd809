"""Queries that a language model writes for passages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.corpora.passages import Passages, passages_of, passages_payload
from data_prep.engines.shards import Engine, Payload, shard_key
from data_prep.llm.asking import Asker
from data_prep.llm.base import Request, llm_fingerprint
from data_prep.llm.task import LlmTask
from data_prep.pipeline.settings import types_of
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.answer import clean
from data_prep.queries.prompt import Prompt, load_prompts, request_seed
from data_prep.queries.query import Collected, Query
from ldx.records.sets import PassageSet


@dataclass(frozen=True)
class QueryTask(LlmTask[str]):
    """The task of writing a query of every type for each passage of a selection.

    Attributes:
      prompts: the prompts by query type; a query type is a group of the task.
      seed: the seed of the run.
      model: the fingerprint of the language model.
      passages: the corpus; a passage's row is its number in the task.
      passage_set: the records of the corpus.
      rows: the rows of the passages that get queries.
    """

    what = "queries"
    id_key = "doc_id"
    not_sent = ("passages", "passage_set", "rows")

    prompts: Mapping[str, Prompt]
    seed: int
    model: str
    passages: Passages
    passage_set: PassageSet
    rows: Sequence[int]

    @property
    def groups(self) -> dict[str, Sequence[int]]:
        """The rows of the passages that get queries, for each query type."""
        return dict.fromkeys(self.prompts, self.rows)

    @property
    def total(self) -> int:
        """The number of queries: one of each type for every passage that gets queries."""
        return len(self.prompts) * int(self.passages.roles.gets_queries.sum())

    def key(self, group: str, number: int, attempt: int) -> str:
        """A hash of all that decides the answer for a passage."""
        settings = f"{self.prompts[group].fingerprint} {self.model} {self.seed} {attempt}"
        return shard_key(settings, self.passage_set[number].doc_id, self.passages.texts[number])

    def payload(self, group: str, numbers: Sequence[int], attempt: int) -> Payload:
        """The passages that requests are made for."""
        passages = passages_payload(self.passage_set, self.passages, group, list(numbers))
        return {**passages, "attempt": attempt}

    def requests(self, payload: Payload) -> list[Request]:
        """One request for each passage of a payload."""
        prompt, attempt = self.prompts[payload["query_type"]], payload["attempt"]
        return [
            Request(
                prompt.messages(passage, doc_id, self.seed),
                prompt.sampling,
                request_seed(self.seed, doc_id, prompt.query_type, attempt),
            )
            for _, doc_id, passage in passages_of(payload)
        ]

    def judge(self, group: str, number: int, answer: Mapping[str, Any]) -> tuple[str, str]:
        """The query in an answer, or "" and the reason why there is none."""
        passage = self.passages.texts[number]
        return clean(answer["text"], self.prompts[group], passage, answer["finish_reason"])

    def name(self, group: str, thing_id: str) -> str:
        """The name of a query whose request failed."""
        return f"{thing_id} {group}"


def llm_queries(
    workspace: Workspace, passages: Passages, rows: np.ndarray, engine: Engine
) -> Collected:
    """One query from each prompt for each passage; after a bad answer the model is asked again.

    Bad answers are counted by reason, and so are passages that got no query in the end.
    """
    task = QueryTask(
        prompts={p.query_type: p for p in load_prompts(types_of(workspace.settings))},
        seed=workspace.config.seed,
        model=llm_fingerprint(workspace.settings.llm),
        passages=passages,
        passage_set=PassageSet(workspace.corpus_records),
        rows=rows.tolist(),
    )
    answers = Asker(workspace, engine, workspace.prep / "answers", task).ask()
    queries = []
    for good in answers.good:
        doc_id = good.line["doc_id"]
        query_id = f"{doc_id}:{good.group}"
        queries.append(Query(query_id, good.group, good.value, good.number, "", {}, doc_id))
    return Collected(queries, answers.dropped)


def prompt_facts(workspace: Workspace) -> dict[str, Any]:
    """Facts for the manifest: the model, and each prompt's version, hash and sampling."""
    prep = workspace.settings
    prompts = load_prompts(types_of(prep))
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
            for prompt in prompts
        },
    }
