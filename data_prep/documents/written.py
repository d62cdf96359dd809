"""Asking a language model for passages at several levels of relevance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.documents.answer import read_answer
from data_prep.documents.prompt import DocumentPrompt, load_document_prompt
from data_prep.engines.shards import Payload, shard_key
from data_prep.llm.asking import Asker
from data_prep.llm.base import CHARS_PER_TOKEN, Request, llm_fingerprint
from data_prep.llm.task import LlmTask
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query

GROUP = "documents"


@dataclass(frozen=True)
class DocumentTask(LlmTask[dict[int, str]]):
    """The task of writing passages at all levels of relevance for each query of a selection.

    Attributes:
      prompt: the prompt that asks for the passages.
      seed: the seed of the run.
      model: the fingerprint of the language model.
      queries: the queries that get passages; a query's place is its number in the task.
    """

    what = "queries' passages"
    id_key = "query_id"
    not_sent = ("queries",)

    prompt: DocumentPrompt
    seed: int
    model: str
    queries: Sequence[Query]

    @property
    def groups(self) -> dict[str, Sequence[int]]:
        """All queries, in one group."""
        return {GROUP: range(len(self.queries))}

    @property
    def total(self) -> int:
        """The number of queries."""
        return len(self.queries)

    def key(self, group: str, number: int, attempt: int) -> str:
        """A hash of all that decides the answer for a query."""
        settings = f"{self.prompt.fingerprint} {self.model} {self.seed} {attempt}"
        query = self.queries[number]
        return shard_key(settings, query.query_id, query.text)

    def payload(self, group: str, numbers: Sequence[int], attempt: int) -> Payload:
        """The queries that requests are made for."""
        return {
            "query_ids": [self.queries[number].query_id for number in numbers],
            "queries": [self.queries[number].text for number in numbers],
            "attempt": attempt,
        }

    def requests(self, payload: Payload) -> list[Request]:
        """One request for each query of a payload, which asks for its passages of all levels."""
        attempt = payload["attempt"]
        return [
            Request(
                self.prompt.messages(query, query_id, self.seed, attempt),
                self.prompt.sampling,
                self.prompt.request_seed(query_id, self.seed, attempt),
            )
            for query_id, query in zip(payload["query_ids"], payload["queries"], strict=True)
        ]

    def judge(
        self, group: str, number: int, answer: Mapping[str, Any]
    ) -> tuple[dict[int, str], str]:
        """The passages in an answer by level, or {} and the reason why there are none."""
        query = self.queries[number].text
        return read_answer(answer["text"], self.prompt, query, answer["finish_reason"])


@dataclass(frozen=True)
class WrittenPassages:
    """Passages that a language model wrote for queries.

    Attributes:
      by_query: texts by level, the highest level first, by the place of the query.
      dropped: how many answers were bad, by reason, and how many queries got no passages in the
        end.
    """

    by_query: dict[int, dict[int, str]]
    dropped: dict[str, int]


def write_for(workspace: Workspace, queries: Sequence[Query]) -> WrittenPassages:
    """Have a language model write passages for queries."""
    task = DocumentTask(
        prompt=load_document_prompt(workspace.settings.document_prompt),
        seed=workspace.config.seed,
        model=llm_fingerprint(workspace.settings.llm),
        queries=queries,
    )
    folder = workspace.prep / "document_answers"
    answers = Asker(workspace, workspace.engine, folder, task).ask()
    dropped = {name.removeprefix(f"{GROUP}: "): n for name, n in answers.dropped.items()}
    return WrittenPassages({good.number: good.value for good in answers.good}, dropped)


def num_tokens(prompt: DocumentPrompt, queries: list[tuple[str, str]], seed: int) -> float:
    """An estimate of the most tokens that a request and its answer have, from a sample of queries.

    Args:
      prompt: the prompt that asks for passages.
      queries: the query_ids and texts of the sample.
      seed: the seed of the run.
    """
    chats = (prompt.messages(text, query_id, seed, 0) for query_id, text in queries)
    chars = [sum(len(message["content"]) for message in chat) for chat in chats]
    return sum(chars) / len(chars) / CHARS_PER_TOKEN + prompt.sampling.max_tokens
