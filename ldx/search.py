"""Search by hand: `python -m ldx.search --model=DIR --corpus=FILE_OR_BEIR_DIR "query"`.

Prints the best passages of each query; without a query, reads them line by line. The passages'
embeddings are kept in a cache, so that the next call answers at once.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

from ldx.common import cli
from ldx.common.files import fingerprint
from ldx.eval.beir import Corpus, CorpusTexts, read_corpus
from ldx.records.schema import check_template
from ldx.retrieval.embeddings_file import encode_to_file
from ldx.retrieval.encoder import encode_texts, get_encoder
from ldx.retrieval.retrieve import DEFAULT_TEMPLATE
from ldx.retrieval.search import search
from ldx.training.model import Model, declared_template, load_model

FLAGS = flags.FLAGS
SNIPPET_LINES = 2
MAX_WIDTH = 120


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("model", None, "Model folder, package:NAME==VERSION, hub name, or workdir")
    flags.DEFINE_string("corpus", None, "Folder in BEIR layout, or a .jsonl or .jsonl.gz file")
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
    """Answer the queries of the command line, or those typed."""
    template = FLAGS.passage_template or declared_template(FLAGS.model) or DEFAULT_TEMPLATE
    check_template(template)
    corpus = read_corpus(cli.required("corpus"))
    model = load_model(
        cli.required("model"),
        query_max_length=FLAGS.query_max_length,
        passage_max_length=FLAGS.passage_max_length,
    )
    cache = Path(FLAGS.cache) if FLAGS.cache else default_cache()
    passages = embed_corpus(model, corpus, template, cache)
    if argv[1:]:
        print(answer(model, corpus, passages, argv[1:], FLAGS.k))
        return
    for query in typed_queries():
        print(answer(model, corpus, passages, [query], FLAGS.k), flush=True)


def default_cache() -> Path:
    """Where embeddings are kept: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldx"


def embed_corpus(model: Model, corpus: Corpus, template: str, cache: Path) -> np.ndarray:
    """Embeddings float32 [N, D] of a corpus, memory-mapped, made once for a model and a corpus."""
    texts = CorpusTexts(corpus, template)
    key = texts.fingerprint
    return encode_to_file(
        get_encoder(model.student),
        model.params,
        texts,
        cache / f"passages-{fingerprint(model.fingerprint, key)}.npy",
        kind="passage",
        key=key,
        description="passages",
    )


def typed_queries() -> Iterator[str]:
    """Lines of standard input, with a prompt where a person types them; blank ones are skipped."""
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


def answer(model: Model, corpus: Corpus, passages: np.ndarray, queries: list[str], k: int) -> str:
    """The best passages of each query, as text for a terminal."""
    embeddings = encode_texts(model.student, model.params, queries, kind="query")
    result = search(embeddings, passages, k, index="exact")
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    blocks = []
    for i, query in enumerate(queries):
        found = zip(result.rows[i].tolist(), result.scores[i].tolist(), strict=True)
        entries = [_entry(corpus, r, s, place, width) for place, (r, s) in enumerate(found, 1)]
        blocks.append("\n".join([f"query: {query}", *entries]))
    return "\n\n".join(blocks) + "\n"


def _entry(corpus: Corpus, row: int, score: float, place: int, width: int) -> str:
    """Rank, score, id and title on a line, and the beginning of the passage under it."""
    title = " ".join(corpus.titles[row].split())
    head = f"{place:3d}  {score:.4f}  {corpus.doc_ids[row]}" + (f"  {title}" if title else "")
    text = " ".join(corpus.texts[row].split())
    snippet = textwrap.wrap(
        text,
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
