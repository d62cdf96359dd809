"""Stage 2b: a language model writes passages at several levels of relevance for each query.

    python -m data_prep.generate_documents --config=FILE.py --workdir=DIR [--dry-run]

The passages are for lists of graded labels (SyCL, arXiv 2503.23239). The stage leaves
WORKDIR/prep/documents.jsonl, and the answers in WORKDIR/prep/document_answers. --dry-run counts
prompts and tokens and asks no model; it needs the queries of data_prep.generate_queries (before
these exist, data_prep.run --dry-run estimates the costs).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from absl import flags

from data_prep.documents.document import DOCUMENTS_NAME, Document, write_documents
from data_prep.documents.prompt import load_document_prompt
from data_prep.documents.written import num_tokens, write_for
from data_prep.llm.base import llm_fingerprint
from data_prep.pipeline.stage import Stage, run_as_command, workspace_from_flags
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries.query import QUERIES_NAME, Query, load_queries
from ldx.common import cli
from ldx.common.errors import UserError
from ldx.records.schema import HUMAN_DEV


def queries_with_documents(queries: list[Query]) -> list[Query]:
    """The queries for which passages are written: all but people's dev queries."""
    return [query for query in queries if query.query_type != HUMAN_DEV]


def _work(workspace: Workspace) -> dict[str, Any]:
    queries = queries_with_documents(load_queries(workspace))
    written = write_for(workspace, queries)
    passages = written.by_query
    if not passages:
        raise UserError(
            f"no passages: of {len(queries)} queries none got a good answer ({written.dropped}); "
            f"the model's answers are in {workspace.prep / 'document_answers'}"
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
        "dropped": written.dropped,
        "prompt": _prompt_facts(workspace),
    }


def _prompt_facts(workspace: Workspace) -> dict[str, Any]:
    """Facts for the manifest: the model, and the prompt's version, hash and sampling."""
    prep = workspace.settings
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


def _dry_run(workspace: Workspace) -> str:
    queries = queries_with_documents(load_queries(workspace))
    prompt = load_document_prompt(workspace.settings.document_prompt)
    ids_and_texts = [(query.query_id, query.text) for query in queries]
    tokens = num_tokens(prompt, ids_and_texts, workspace.config.seed) if ids_and_texts else 0.0
    levels = ", ".join(str(level.level) for level in prompt.levels)
    return (
        f"{len(queries):,} queries, one prompt each for passages of levels {levels}: at most "
        f"{int(tokens * len(queries)):,} tokens, and up to {workspace.settings.max_attempts} "
        "times as many where answers are bad. Requests that were answered before are not repeated"
    )


def _inputs(workspace: Workspace) -> dict[str, str]:
    prep = workspace.settings
    paths = {"queries": needed(workspace.prep / QUERIES_NAME, "generate_queries")}
    prompt = load_document_prompt(prep.document_prompt)
    return file_fingerprints(paths) | {
        "llm": llm_fingerprint(prep.llm),
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
    """Run the stage, or print what it will cost."""
    if not flags.FLAGS["dry-run"].value:
        STAGE.main(argv)
        return
    cli.refuse_arguments(argv)
    print(_dry_run(workspace_from_flags()))


if __name__ == "__main__":
    flags.DEFINE_bool("dry-run", False, "Print what the stage will cost, and ask no model")
    run_as_command(main, on_engine=True)
