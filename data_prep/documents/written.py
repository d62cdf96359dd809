"""Asking a language model for passages of several levels of relevance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.documents.answer import read_answer
from data_prep.documents.prompt import DocumentPrompt, load_document_prompt
from data_prep.engines.shards import Made, Payload, json_lines, shard_key
from data_prep.llm.asking import Asker, Wanted
from data_prep.llm.base import Answer, Request, llm_fingerprint
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query


@dataclass(frozen=True)
class DocumentQuestions:
    """What is asked for the passages of a shard of queries; see `asking.Questions`."""

    prompt: DocumentPrompt
    seed: int

    def requests(self, payload: Payload) -> list[Request]:
        """One for each query of `payload`, for its passages of all levels."""
        attempt = payload["attempt"]
        return [
            Request(
                self.prompt.messages(query, query_id, self.seed, attempt),
                self.prompt.sampling,
                self.prompt.request_seed(query_id, self.seed, attempt),
            )
            for query_id, query in zip(payload["query_ids"], payload["queries"], strict=True)
        ]

    def made(self, payload: Payload, answers: Sequence[Answer]) -> Made:
        """The answers, a JSON object a line; requests that failed are rejects too."""
        lines, rejects = [], []
        rows = zip(payload["query_ids"], payload["asked"], answers, strict=True)
        for query_id, asked, answer in rows:
            lines.append({"asked": asked, "query_id": query_id, **vars(answer)})
            if answer.error:
                rejects.append({"id": query_id, "reason": answer.error})
        return Made(json_lines(lines), rejects, len(lines))


GROUP = "documents"
CHARS_PER_TOKEN = 4.0  # of English


def write_for(workspace: Workspace, queries: list[Query], dropped: Counter[str]) -> dict[int, Any]:
    """Have passages written for queries.

    Args:
      dropped: counts the bad answers by reason, and queries that got no good one in the end.

    Returns:
      For the number of each query that got them, texts by level, highest first.
    """
    config = workspace.config
    prompt = load_document_prompt(workspace.settings.document_prompt)
    llm = llm_fingerprint(workspace.settings.llm)
    settings = f"{prompt.fingerprint} {llm} {config.seed}"

    def key(_: str, number: int, attempt: int) -> str:
        query = queries[number]
        return shard_key(f"{settings} {attempt}", query.query_id, query.text)

    def payload(_: str, numbers: list[int], attempt: int) -> Payload:
        return {
            "query_ids": [queries[number].query_id for number in numbers],
            "queries": [queries[number].text for number in numbers],
            "attempt": attempt,
        }

    def judge(_: str, number: int, answer: Mapping[str, Any]) -> tuple[dict[int, str], str]:
        text = queries[number].text
        return read_answer(answer["text"], prompt, text, answer["finish_reason"])

    wanted = Wanted(
        "queries' passages",
        {GROUP: range(len(queries))},
        key,
        payload,
        lambda _, answer: answer["query_id"],
        len(queries),
    )
    folder = workspace.prep / "document_answers"
    asker = Asker(workspace, workspace.engine, folder, DocumentQuestions(prompt, config.seed))
    found = asker.ask(wanted, judge, dropped)
    return {number: passages for _, number, _, passages in found}


def num_tokens(prompt: DocumentPrompt, queries: list[tuple[str, str]], seed: int) -> float:
    """About how many tokens a request and its answer have, at most, by a sample of queries.

    Args:
      queries: query_ids and texts.
    """
    chats = (prompt.messages(text, query_id, seed, 0) for query_id, text in queries)
    chars = [sum(len(message["content"]) for message in chat) for chat in chats]
    return sum(chars) / len(chars) / CHARS_PER_TOKEN + prompt.sampling.max_tokens
