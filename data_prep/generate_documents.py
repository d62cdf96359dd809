"""Stage 2b: a language model writes passages at several levels of relevance for each query.

    python -m data_prep.generate_documents --config=FILE.py --workdir=DIR [--dry-run]

For lists of graded labels (SyCL, arXiv 2503.23239). Leaves WORKDIR/prep/documents.jsonl, and the
answers in WORKDIR/prep/document_answers. --dry-run counts the prompts and asks nothing; it wants
the queries of data_prep.generate_queries (before there are any, data_prep.run --dry-run estimates).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from data_prep.asking import Asker, Wanted
from data_prep.document_prompts import DocumentPrompt, load_document_prompt
from data_prep.documents import (
    DOCUMENTS_NAME,
    Document,
    DocumentQuestions,
    read_answer,
    write_documents,
)
from data_prep.engines.shards import Payload, shard_key
from data_prep.llm import LlmConfig, llm_fingerprint
from data_prep.pipeline.stage import Stage, refuse_arguments, run_as_command, workspace_from_flags
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries import QUERIES_NAME, Query, load_queries
from ldx.common.errors import UserError
from ldx.common.sections import build
from ldx.records.schema import HUMAN_DEV

GROUP = "documents"
CHARS_PER_TOKEN = 4.0  # of English


def queries_with_documents(queries: list[Query]) -> list[Query]:
    """Those that passages are written for: all that are trained on."""
    return [query for query in queries if query.query_type != HUMAN_DEV]


def write_for(workspace: Workspace, queries: list[Query], dropped: Counter[str]) -> dict[int, Any]:
    """Have passages written for queries.

    Args:
      dropped: counts the bad answers by reason, and queries that got no good one in the end.

    Returns:
      For the number of each query that got them, texts by level, highest first.
    """
    config = workspace.config
    prompt = load_document_prompt(config.prep.document_prompt)
    llm = llm_fingerprint(build(LlmConfig, config.prep.llm.to_dict(), "prep.llm"))
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


def _work(workspace: Workspace) -> dict[str, Any]:
    queries = queries_with_documents(load_queries(workspace))
    dropped: Counter[str] = Counter()
    passages = write_for(workspace, queries, dropped)
    reasons = {name.removeprefix(f"{GROUP}: "): count for name, count in dropped.items()}
    if not passages:
        raise UserError(
            f"no passages: of {len(queries)} queries none got a good answer ({reasons}); what the "
            f"model wrote is in {workspace.prep / 'document_answers'}"
        )

    def documents() -> Iterator[Document]:
        for number in sorted(passages):
            for level, text in passages[number].items():
                yield Document(queries[number].query_id, level, text)

    write_documents(workspace.prep / DOCUMENTS_NAME, documents())
    levels = Counter(level for of_query in passages.values() for level in of_query)
    return {
        "queries": len(queries),
        "with passages": len(passages),
        **{f"level {level}": levels[level] for level in sorted(levels, reverse=True)},
        "dropped": reasons,
        "prompt": _prompt_facts(workspace),
    }


def _prompt_facts(workspace: Workspace) -> dict[str, Any]:
    """What the manifest tells: the model, and of the prompt its version, hash and sampling."""
    prep = workspace.config.prep
    prompt = load_document_prompt(prep.document_prompt)
    return {
        "model": prep.llm.model,
        "backend": prep.llm.backend,
        "name": prep.document_prompt,
        "version": prompt.version,
        "fingerprint": prompt.fingerprint,
        "language": prompt.language,
        **vars(prompt.sampling),
    }


def num_tokens(prompt: DocumentPrompt, queries: list[tuple[str, str]], seed: int) -> float:
    """About how many tokens a request and its answer have, at most, by a sample of queries.

    Args:
      queries: query_ids and texts.
    """
    chats = (prompt.messages(text, query_id, seed, 0) for query_id, text in queries)
    chars = [sum(len(message["content"]) for message in chat) for chat in chats]
    return sum(chars) / len(chars) / CHARS_PER_TOKEN + prompt.sampling.max_tokens


def _dry_run(workspace: Workspace) -> str:
    queries = queries_with_documents(load_queries(workspace))
    prompt = load_document_prompt(workspace.config.prep.document_prompt)
    asked = [(query.query_id, query.text) for query in queries]
    tokens = num_tokens(prompt, asked, workspace.config.seed) if asked else 0.0
    levels = ", ".join(str(level.level) for level in prompt.levels)
    return (
        f"{len(queries):,} queries, one prompt each for passages of levels {levels}: at most "
        f"{int(tokens * len(queries)):,} tokens, and up to {workspace.config.prep.max_attempts} "
        "times as many where answers are bad. What was answered before is not asked again"
    )


def _inputs(workspace: Workspace) -> dict[str, str]:
    prep = workspace.config.prep
    paths = {"queries": needed(workspace.prep / QUERIES_NAME, "generate_queries")}
    prompt = load_document_prompt(prep.document_prompt)
    return file_fingerprints(paths) | {
        "llm": llm_fingerprint(build(LlmConfig, prep.llm.to_dict(), "prep.llm")),
        "prompt": f"{prompt.fingerprint} {prompt.language} {prompt.answer}",
    }


STAGE = Stage(
    name="generate_documents",
    keys=("seed", "prep.max_attempts", "prep.max_rejects", "prep.shard_size"),
    inputs=_inputs,
    outputs=lambda workspace: [workspace.prep / DOCUMENTS_NAME],
    work=_work,
)


def main(argv: list[str]) -> None:
    """Run the stage, or say what it will cost."""
    if not flags.FLAGS["dry-run"].value:
        STAGE.main(argv)
        return
    refuse_arguments(argv)
    print(_dry_run(workspace_from_flags()))


if __name__ == "__main__":
    flags.DEFINE_bool("dry-run", False, "Say what the stage will cost, and ask nothing")
    run_as_command(main)
