"""Evaluate: `python -m ldx.evaluate --model=DIR --dataset=BEIR_DIR --split=test --output=DIR`.

Searches the collection with a model (or reads a run by --run=FILE), scores it as trec_eval does,
and leaves OUTPUT/metrics.json, per_query.tsv and run.trec; --baseline=RUN adds a paired test.
Killed while it embeds the corpus, the same command goes on: the embeddings are in
OUTPUT/.embeddings, 4 bytes a number, until the run is written.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags, logging

from ldx.common import cli
from ldx.common.callable_module import make_callable
from ldx.common.errors import UserError
from ldx.common.files import folder_path
from ldx.common.types import IndexKind
from ldx.eval.beir import Dataset, load_dataset
from ldx.eval.metrics import DEPTH, Run, read_run
from ldx.eval.report import (
    Facts,
    Report,
    format_table,
    make_report,
    write_report,
)
from ldx.retrieval.model import Model
from ldx.retrieval.retrieve import CACHE_NAME, DEFAULT_TEMPLATE, drop_self, excludes_self, retrieve
from ldx.training.model import load_model

OPTIONS = (
    *("run", "split", "output", "baseline", "index", "relevance_level", "k", "exclude_self"),
    *("microbatch_tokens", "passage_embeddings"),
)


def define_flags() -> None:
    """Define the flags of this command."""
    model = "Model folder, package:NAME==VERSION, hub name, or workdir; give this or --run"
    flags.DEFINE_string("model", None, model)
    flags.DEFINE_string("run", None, "TREC run file to score, instead of a model: this or --model")
    flags.DEFINE_string("dataset", None, "Folder in BEIR layout")
    flags.DEFINE_string("split", "test", "Split of its qrels")
    flags.DEFINE_string("output", None, "Folder for metrics.json, per_query.tsv and run.trec")
    flags.DEFINE_enum("index", "auto", list(IndexKind), "How to search; auto is exact here")
    flags.DEFINE_string("baseline", None, "TREC run file to compare with")
    flags.DEFINE_integer(
        "relevance_level", 1, "Least grade that is relevant to R, RR and AP", lower_bound=1
    )
    flags.DEFINE_integer("k", DEPTH, "Results a query, in run.trec", lower_bound=DEPTH)
    flags.DEFINE_bool("exclude_self", False, "Remove passages that have their query's own id")
    flags.DEFINE_string(
        "passage_template",
        None,
        f"Joins title and text; as the model was trained: {DEFAULT_TEMPLATE}",
    )
    flags.DEFINE_string(
        "passage_embeddings", None, "The passages' embeddings, an .npy file by Index.save"
    )
    flags.DEFINE_integer("microbatch_tokens", None, "Tokens in work at once", lower_bound=1)
    flags.DEFINE_integer("query_max_length", None, "Tokens of a query, if not as declared")
    flags.DEFINE_integer("passage_max_length", None, "Tokens of a passage, if not as declared")
    for name in ("relevance_level", "exclude_self"):
        flags.DEFINE_alias(name.replace("_", "-"), name)


def main(argv: list[str]) -> None:
    """Evaluate a model or a run, and print the table."""
    cli.refuse_arguments(argv)
    values = flags.FLAGS
    options: dict[str, Any] = {name: values[name].value for name in OPTIONS}
    cli.required_folder("output")
    model: Model | str | None = values.model or None
    if values.model and not values.run:
        model = load_model(
            values.model,
            passage_template=values.passage_template,
            query_max_length=values.query_max_length,
            passage_max_length=values.passage_max_length,
        )
    report = evaluate(cli.required("dataset"), model=model, **options)
    print(format_table("metric", report.results))
    print(
        f"{report.metrics['num_queries']} queries of {values.dataset}, {values.split}; all in "
        f"{values.output}"
    )


def evaluate(
    dataset: str | Path,
    *,
    model: Model | str | Path | None = None,
    run: str | Path | None = None,
    split: str = "test",
    output: str | Path | None = None,
    baseline: str | Path | None = None,
    index: str = "auto",
    relevance_level: int = 1,
    k: int = DEPTH,
    exclude_self: bool = False,
    microbatch_tokens: int | None = None,
    passage_embeddings: str | Path | None = None,
) -> Report:
    """Search a collection with a model, or read a run, and score it as trec_eval does.

    Args:
      dataset: a folder in BEIR layout.
      model: what `ldx.load` gave, with its lengths and its template, or what it takes; this or
        `run`.
      run: a TREC run file to score instead.
      split: of the collection's qrels.
      output: a folder for metrics.json, per_query.tsv and run.trec; None writes nothing. Embeddings
        are kept there until the run is written, and a stopped call goes on from them.
      baseline: a TREC run file to compare with, query by query.
      index: how to search: exact, scann, whose recall is then in the report, or auto, which is
        exact.
      relevance_level: the least grade that is relevant to R, RR and AP.
      k: results a query.
      exclude_self: remove passages that have their query's own id.
      microbatch_tokens: tokens in work at once; None: as the device's memory allows.
      passage_embeddings: an .npy file of the passages' embeddings (`Index.save`), made by a model
        with the same tower of passages; None: the model embeds them.

    Returns:
      `metrics`, flat, and `scores`, of every query.

    Raises:
      UserError: something that was given is missing or wrong.
    """
    if (model is None) == (run is None):
        raise UserError("give one of model and run (--model=DIR, --run=FILE)")
    if run is not None and passage_embeddings is not None:
        raise UserError("passage_embeddings is for a model; a run has its passages already")
    _check_options(index, relevance_level, k, microbatch_tokens)
    folder = None if output is None else folder_path("output", output)
    collection = load_dataset(dataset, split)
    base = _read_run(baseline, collection, exclude_self) if baseline else None
    cache = folder / CACHE_NAME if folder else None
    facts: Facts
    if run is not None:
        ranking, facts = _read_run(run, collection, exclude_self), {"run": str(run)}
    else:
        if not isinstance(model, Model):
            assert model is not None
            model = load_model(model)
        passages = None
        if passage_embeddings is not None:
            passages = model.index(collection.corpus, embeddings=passage_embeddings).embeddings
        ranking, facts = retrieve(
            collection,
            model.student,
            model.towers,
            index=index,
            k=k,
            exclude_self=exclude_self,
            template=model.passage_template,
            microbatch_tokens=microbatch_tokens,
            store=model.store,
            cache=cache,
            passages=passages,
        )
        facts = {"model": model.name, "passage_template": model.passage_template, **facts}
    if passage_embeddings is not None:
        facts["passage_embeddings"] = str(passage_embeddings)
    if baseline:
        facts["baseline"] = str(baseline)
    report = make_report(collection, ranking, facts, relevance_level=relevance_level, baseline=base)
    if folder:
        write_report(folder, ranking, report)
        shutil.rmtree(folder / CACHE_NAME, ignore_errors=True)
    return report


def _check_options(index: str, relevance_level: int, k: int, microbatch_tokens: int | None) -> None:
    """Refuse values that cannot be, as the flags do, before anything is read."""
    if index not in list(IndexKind):
        raise UserError(f"index={index!r}: wanted {', '.join(IndexKind)}")
    tokens = 1 if microbatch_tokens is None else microbatch_tokens
    for name, value, least in (
        ("relevance_level", relevance_level, 1),
        ("k", k, DEPTH),
        ("microbatch_tokens", tokens, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name}={value!r}: wanted a whole number of at least {least}")


def _read_run(path: str | Path, dataset: Dataset, exclude_self: bool) -> Run:
    """A run file, after a look at whether it is of this dataset."""
    run = read_run(path)
    judged = [query_id for query_id in dataset.queries if query_id in run]
    if not judged:
        raise UserError(
            f"{path} has no query of {dataset.root}, split {dataset.split}; the first is "
            f"{next(iter(run))!r}, there {next(iter(dataset.queries))!r}"
        )
    known = set(dataset.corpus.doc_ids)
    _warn(path, "judged queries have no results and count 0", set(dataset.queries) - run.keys())
    _warn(path, "queries are not judged and do not count", run.keys() - set(dataset.queries))
    _warn(path, "passages are not in the corpus", {d for q in judged for d in run[q]} - known)
    return drop_self(run) if excludes_self(dataset, exclude_self) else run


def _warn(path: str | Path, what: str, ids: Iterable[str]) -> None:
    if ids := sorted(ids):
        logging.warning("%s: %d %s, such as %r", path, len(ids), what, ids[0])


if __name__ == "__main__":
    define_flags()
    cli.run(main)
else:
    make_callable(__name__, evaluate)
