"""Evaluate: `python -m ldx.evaluate --model=DIR --dataset=BEIR_DIR --split=test --output=DIR`.

Searches the collection with a model (or reads a run by --run=FILE), scores it as trec_eval does,
and leaves OUTPUT/metrics.json, per_query.tsv and run.trec; --baseline=RUN adds a paired test.
Killed while it embeds the corpus, the same command goes on: the embeddings are in
OUTPUT/.embeddings, 4 bytes a number, until the run is written.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from absl import flags, logging

from ldx.common import cli
from ldx.common.errors import UserError
from ldx.eval.beir import Dataset, load_dataset
from ldx.eval.metrics import DEPTH, Run, read_run
from ldx.eval.report import Facts, check_report_folder, format_table, make_report, write_report
from ldx.records.schema import check_template
from ldx.retrieval.retrieve import (
    CACHE_NAME,
    DEFAULT_TEMPLATE,
    drop_self,
    excludes_self,
    retrieve,
)
from ldx.training.model import declared_template, load_model

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of this command."""
    model = "Model folder, package:NAME==VERSION, hub name, or workdir; give this or --run"
    flags.DEFINE_string("model", None, model)
    flags.DEFINE_string("run", None, "TREC run file to score, instead of a model: this or --model")
    flags.DEFINE_string("dataset", None, "Folder in BEIR layout")
    flags.DEFINE_string("split", "test", "Split of its qrels")
    flags.DEFINE_string("output", None, "Folder for metrics.json, per_query.tsv and run.trec")
    flags.DEFINE_enum("index", "auto", ["auto", "exact", "scann"], "How to search")
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
    flags.DEFINE_integer("microbatch_tokens", None, "Tokens in work at once", lower_bound=1)
    flags.DEFINE_integer("query_max_length", None, "Tokens of a query, if not as declared")
    flags.DEFINE_integer("passage_max_length", None, "Tokens of a passage, if not as declared")
    for name in ("relevance_level", "exclude_self"):
        flags.DEFINE_alias(name.replace("_", "-"), name)


def main(argv: list[str]) -> None:
    """Evaluate a model or a run."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; every setting is a flag: --name=value")
    if bool(FLAGS.model) == bool(FLAGS.run):
        raise UserError("give one of --model=DIR and --run=FILE")
    output = Path(cli.required("output"))
    check_report_folder(output)
    template = FLAGS.passage_template or declared_template(FLAGS.model) or DEFAULT_TEMPLATE
    check_template(template)
    dataset = load_dataset(cli.required("dataset"), FLAGS.split)
    baseline = _read_run(FLAGS.baseline, dataset) if FLAGS.baseline else None
    if FLAGS.run:
        run, facts = _read_run(FLAGS.run, dataset), {"run": FLAGS.run}
    else:
        run, facts = _retrieve(dataset, template, output / CACHE_NAME)
    if FLAGS.baseline:
        facts["baseline"] = FLAGS.baseline
    report = make_report(
        dataset, run, facts, relevance_level=FLAGS.relevance_level, baseline=baseline
    )
    write_report(output, run, report)
    shutil.rmtree(output / CACHE_NAME, ignore_errors=True)
    print(format_table("metric", report.results))
    print(f"{len(dataset.queries)} queries of {dataset.root}, {FLAGS.split}; all in {output}")


def _retrieve(dataset: Dataset, template: str, cache: Path) -> tuple[Run, Facts]:
    model = load_model(
        FLAGS.model,
        query_max_length=FLAGS.query_max_length,
        passage_max_length=FLAGS.passage_max_length,
    )
    run, facts = retrieve(
        dataset,
        model.student,
        model.params,
        index=FLAGS.index,
        k=FLAGS.k,
        exclude_self=FLAGS.exclude_self,
        template=template,
        microbatch_tokens=FLAGS.microbatch_tokens,
        cache=cache,
    )
    return run, {"model": FLAGS.model, "passage_template": template, **facts}


def _read_run(path: str, dataset: Dataset) -> Run:
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
    return drop_self(run) if excludes_self(dataset, FLAGS.exclude_self) else run


def _warn(path: str, what: str, ids: Iterable[str]) -> None:
    if ids := sorted(ids):
        logging.warning("%s: %d %s, such as %r", path, len(ids), what, ids[0])


if __name__ == "__main__":
    define_flags()
    cli.run(main)
