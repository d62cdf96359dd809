"""Search by hand: `python -m ldx.search --model=DIR --corpus=FILE_OR_BEIR_DIR "query"`.

It prints the best passages of each query; without a query on the command line, it reads one from
each line of standard input. A cache keeps the passages' embeddings, so the next call answers at
once.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from ldx.common import cli
from ldx.common.files import folder_path
from ldx.eval.beir import read_corpus
from ldx.eval.passages import CORPUS_FORMS
from ldx.retrieval.model import Hit, Index
from ldx.retrieval.retrieve import DEFAULT_TEMPLATE
from ldx.training.model import load_model

SNIPPET_LINES = 2
MAX_WIDTH = 120


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("model", None, "Model folder, package:NAME==VERSION, hub name, or workdir")
    flags.DEFINE_string("corpus", None, f"The passages: {CORPUS_FORMS}")
    flags.DEFINE_integer("k", 5, "Passages a query", lower_bound=1)
    flags.DEFINE_string("cache", None, "Folder for embeddings (default: ~/.cache/ldx)")
    flags.DEFINE_string(
        "passage_template",
        None,
        f"Joins title and text; as the model was trained: {DEFAULT_TEMPLATE}",
    )
    flags.DEFINE_integer("query_max_length", None, "Tokens of a query, if not as declared")
    flags.DEFINE_integer("passage_max_length", None, "Tokens of a passage, if not as declared")


def main(argv: list[str]) -> None:
    """Answer the queries of the command line or, without any, those of standard input."""
    values = flags.FLAGS
    corpus = read_corpus(cli.required("corpus"))
    model = load_model(
        cli.required("model"),
        passage_template=values.passage_template,
        query_max_length=values.query_max_length,
        passage_max_length=values.passage_max_length,
    )
    index = model.index(corpus, cache=folder_path("--cache", values.cache or default_cache()))
    if argv[1:]:
        print(answers(index, argv[1:], values.k))
        return
    for query in typed_queries():
        print(answers(index, [query], values.k), flush=True)


def default_cache() -> Path:
    """The folder in which embeddings are kept by default, in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldx"


def typed_queries() -> Iterator[str]:
    """The lines of standard input but blank ones, after a prompt if it is a terminal."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("query> ") if interactive else sys.stdin.readline()
        except EOFError:
            return
        if not line and not interactive:
            return
        if line.strip():
            yield line.strip()


def answers(index: Index, queries: list[str], k: int) -> str:
    """The best passages of each query, as text for a terminal."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    blocks = []
    for query, hits in zip(queries, index.search_all(queries, k), strict=True):
        entries = [_entry(hit, rank, width) for rank, hit in enumerate(hits, 1)]
        blocks.append("\n".join([f"query: {query}", *entries]))
    return "\n\n".join(blocks) + "\n"


def _entry(hit: Hit, rank: int, width: int) -> str:
    """A line with rank, score, id and title, and under it the beginning of the passage."""
    title = " ".join(hit.title.split())
    head = f"{rank:3d}  {hit.score:.4f}  {hit.doc_id}" + (f"  {title}" if title else "")
    snippet = textwrap.wrap(
        " ".join(hit.text.split()),
        width=max(width, 40),
        initial_indent=" " * 5,
        subsequent_indent=" " * 5,
        max_lines=SNIPPET_LINES,
        placeholder=" ...",
    )
    return "\n".join([head, *snippet])


if __name__ == "__main__":
    define_flags()
    cli.run(main)
