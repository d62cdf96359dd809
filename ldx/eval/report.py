"""Evaluation on a test collection: from a model or embeddings to a run, metrics and a table."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, write_json
from ldx.common.types import Params
from ldx.eval.beir import CorpusTexts, Dataset
from ldx.eval.embeddings import encode_to_file
from ldx.eval.encode import get_encoder
from ldx.eval.metrics import (
    METRICS,
    Run,
    Scores,
    compare,
    confidence_interval,
    score_run,
    write_run,
)
from ldx.eval.search import search
from ldx.models.student import Student

DEPTH = 100
DEFAULT_TEMPLATE = "{title} {text}"
SAME_TEXT_FRACTION = 0.95

MetricValues = dict[str, float | int | str]


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known about a run.

    Attributes:
      metrics: flat; the metrics, their intervals, counts, and comparisons with a baseline.
      scores: the metrics of each query.
    """

    metrics: MetricValues
    scores: Scores


def queries_are_passages(dataset: Dataset) -> bool:
    """Whether queries are passages of the corpus themselves, under the same id (as in ArguAna).

    Equal ids alone are chance: nearly all of the shared ids must have equal texts.
    """
    rows = {doc_id: row for row, doc_id in enumerate(dataset.corpus.doc_ids)}
    shared = [query_id for query_id in dataset.queries if query_id in rows]
    num_equal = 0
    for query_id in shared:
        title, text = dataset.corpus.titles[rows[query_id]], dataset.corpus.texts[rows[query_id]]
        query = dataset.queries[query_id].split()
        num_equal += query in (text.split(), f"{title} {text}".split())
    return bool(shared) and num_equal >= SAME_TEXT_FRACTION * len(shared)


def excludes_self(dataset: Dataset, requested: bool = False) -> bool:
    """Whether passages with their query's own id go: on request, or where they are the query."""
    if requested:
        return True
    detected = queries_are_passages(dataset)
    if detected:
        logging.info(
            "%s: queries are passages of the corpus; each one's own passage is removed",
            dataset.root,
        )
    return detected


def drop_self(run: Run) -> Run:
    """The run without the passages that have their query's own id."""
    return {
        query_id: {doc_id: score for doc_id, score in scores.items() if doc_id != query_id}
        for query_id, scores in run.items()
    }


def evaluate_embeddings(
    dataset: Dataset,
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    *,
    index: str = "auto",
    k: int = DEPTH,
    exclude_self: bool = False,
) -> tuple[Run, MetricValues]:
    """Search the corpus for every query of the dataset.

    Args:
      dataset: its queries and passages, in their order, are what was embedded.
      query_embeddings: float32 [Q, D].
      passage_embeddings: float32 [N, D].
      index: of `search`.
      k: results a query.
      exclude_self: whether to remove the passage with the query's own id.

    Returns:
      The run, and what is to be told of it: index and recall_of_index.
    """
    result = search(query_embeddings, passage_embeddings, k + exclude_self, index)
    doc_ids = dataset.corpus.doc_ids
    run: Run = {}
    for i, query_id in enumerate(dataset.queries):
        found = zip(result.rows[i].tolist(), result.scores[i].tolist(), strict=True)
        scores = {doc_ids[row]: score for row, score in found}
        if exclude_self:
            scores.pop(query_id, None)
        run[query_id] = dict(list(scores.items())[:k])
    recall = 1.0 if result.recall is None else result.recall
    return run, {"index": result.index, "recall_of_index": recall}


def retrieve(
    dataset: Dataset,
    student: Student,
    params: Params,
    *,
    index: str = "auto",
    k: int = DEPTH,
    exclude_self: bool = False,
    template: str = DEFAULT_TEMPLATE,
    microbatch_tokens: int | None = None,
    cache: Path | None = None,
    description: str = "",
    check: Callable[[], None] = lambda: None,
) -> tuple[Run, MetricValues]:
    """Embed a dataset and search it; arguments and result as of `evaluate_embeddings`.

    Args:
      dataset: what to search.
      student: the model.
      params: its parameters.
      index: of `search`.
      k: results a query.
      exclude_self: asks to remove the passage with the query's own id; it is removed unasked
        where `queries_are_passages`.
      template: joins title and text.
      microbatch_tokens: tokens in work at once; None means the device's default.
      cache: a folder for the passages' embeddings, from which the work goes on after a kill; to
        be removed once the run is written. None keeps them in memory.
      description: goes before "passages" and "queries" at the progress bars.
      check: called between micro-batches; what it raises ends the work.
    """
    encoder = get_encoder(student, microbatch_tokens)
    texts = CorpusTexts(dataset.corpus, template)
    what = f"{description} passages".strip()
    if cache is None:
        passages = encoder.encode(params, texts, kind="passage", description=what, check=check)
    else:
        passages = encode_to_file(
            encoder,
            params,
            texts,
            cache / "passages.npy",
            kind="passage",
            key=texts.fingerprint,
            description=what,
            check=check,
        )
    queries = encoder.encode(
        params,
        list(dataset.queries.values()),
        kind="query",
        description=f"{description} queries".strip(),
        check=check,
    )
    return evaluate_embeddings(
        dataset,
        queries,
        passages,
        index=index,
        k=k,
        exclude_self=excludes_self(dataset, exclude_self),
    )


def make_report(
    dataset: Dataset,
    run: Run,
    facts: MetricValues | None = None,
    *,
    relevance_level: int = 1,
    baseline: Run | None = None,
) -> Report:
    """Score a run, and compare it with another, over all judged queries.

    Args:
      dataset: its qrels count.
      run: the run.
      facts: kept beside the metrics, such as those of `retrieve`.
      relevance_level: the least grade that is relevant to R, RR and AP.
      baseline: the run to compare with.
    """
    scores = score_run(dataset.qrels, run, relevance_level=relevance_level)
    values: MetricValues = dict(scores.mean)
    for name in METRICS:
        values[f"{name}_low"], values[f"{name}_high"] = confidence_interval(
            scores.per_query[name].values()
        )
    values |= {
        "num_queries": len(dataset.queries),
        "num_passages": len(dataset.corpus),
        "split": dataset.split,
        "relevance_level": relevance_level,
        **(facts or {}),
    }
    if baseline is not None:
        base = score_run(dataset.qrels, baseline, relevance_level=relevance_level)
        for name in METRICS:
            values[f"{name}_baseline"] = base.mean[name]
            comparison = compare(scores.per_query[name], base.per_query[name])
            for key, value in dataclasses.asdict(comparison).items():
                prefix = "difference_" if key in ("low", "high") else ""
                values[f"{name}_{prefix}{key}"] = value
    return Report(values, scores)


def write_report(folder: str | Path, run: Run, report: Report) -> None:
    """Write FOLDER/run.trec, per_query.tsv and, once these are whole, metrics.json."""
    folder = Path(folder)
    check_output(folder)
    write_run(folder / "run.trec", run)
    with atomic_write(folder / "per_query.tsv") as file:
        file.write("\t".join(("query_id", *METRICS)) + "\n")
        for query_id in report.scores.per_query[METRICS[0]]:
            values = (repr(report.scores.per_query[name][query_id]) for name in METRICS)
            file.write("\t".join((query_id, *values)) + "\n")
    write_json(folder / "metrics.json", report.metrics)


def check_output(folder: Path) -> None:
    """Refuse an output that is a file, before the work begins."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --output is a folder")


def format_table(report: Report) -> str:
    """The metrics as aligned columns, with the baseline's where there is one.

    p is that of the paired permutation test, beside it stands that of the paired t-test.
    """
    values = report.metrics
    with_baseline = f"{METRICS[0]}_baseline" in values
    rows = [["metric", "value", "95% interval"]]
    if with_baseline:
        rows[0] += ["baseline", "difference", "95% interval", "p", "t-test", "win/loss/tie"]
    for name in METRICS:
        row = [name, f"{values[name]:.4f}", _interval(values, name, "")]
        if with_baseline:
            row += [
                f"{values[f'{name}_baseline']:.4f}",
                f"{values[f'{name}_difference']:+.4f}",
                _interval(values, f"{name}_difference", "+"),
                f"{values[f'{name}_p_value']:.4f}",
                f"{values[f'{name}_t_test_p_value']:.4f}",
                "/".join(str(values[f"{name}_{key}"]) for key in ("wins", "losses", "ties")),
            ]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _interval(values: MetricValues, name: str, sign: str) -> str:
    return f"[{values[f'{name}_low']:{sign}.4f}, {values[f'{name}_high']:{sign}.4f}]"
