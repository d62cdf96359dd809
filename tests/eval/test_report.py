"""From embeddings to a report: what is removed, what is written, what is told."""

import json
from pathlib import Path

import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.eval.beir import Corpus, Dataset, load_dataset
from ldx.eval.metrics import METRICS, read_run, score_run
from ldx.eval.report import format_table, make_report, write_report
from ldx.models.student import load_student
from ldx.records.schema import check_template
from ldx.retrieval.encoder import Encoder
from ldx.retrieval.retrieve import (
    drop_self,
    evaluate_embeddings,
    excludes_self,
    queries_are_passages,
    retrieve,
)


def make_dataset(queries: dict[str, str] | None = None) -> Dataset:
    corpus = Corpus(
        ["a", "b", "c", "d"],
        ["", "Drag", "", ""],
        ["lift of a wing", "of a body", "flow of  air", "nothing"],
    )
    queries = queries or {"q1": "lift", "q2": "drag"}
    qrels = {query_id: {"b": 1} for query_id in queries}
    return Dataset(Path("toy"), "test", corpus, queries, qrels)


def test_arguana_like_queries_are_detected() -> None:
    assert queries_are_passages(make_dataset({"a": "lift of a wing", "q": "other"}))
    assert queries_are_passages(make_dataset({"b": "Drag of a body"}))
    assert queries_are_passages(make_dataset({"c": "flow of air"}))
    assert not queries_are_passages(make_dataset({"a": "lift of a wing", "b": "something else"}))
    assert not queries_are_passages(make_dataset())


def test_nearly_all_shared_ids_will_do() -> None:
    ids = [str(i) for i in range(100)]
    corpus = Corpus(ids, [""] * 100, [f"text {i}" for i in ids])
    queries = {i: f"text {i}" for i in ids}
    for num_other, expected in ((5, True), (6, False)):
        changed = queries | {i: "other" for i in ids[:num_other]}
        dataset = Dataset(Path("toy"), "test", corpus, changed, {i: {"1": 1} for i in ids})
        assert queries_are_passages(dataset) is expected
    assert excludes_self(dataset, requested=True)


def test_equal_ids_are_chance_in_cranfield(data_dir: Path) -> None:
    dataset = load_dataset(data_dir / "cranfield", "test")
    assert set(dataset.queries) <= set(dataset.corpus.doc_ids)
    assert not excludes_self(dataset)


def test_a_cache_changes_nothing_but_what_a_second_run_embeds(tiny_bert, tmp_path, monkeypatch):
    dataset = make_dataset()
    student = load_student(tiny_bert)
    sizes = []
    embed = Encoder.encode_blocks

    def counted(self, params, texts, **options):
        sizes.append(len(texts))
        return embed(self, params, texts, **options)

    monkeypatch.setattr(Encoder, "encode_blocks", counted)
    expected = retrieve(dataset, student, student.params)
    assert retrieve(dataset, student, student.params, cache=tmp_path / "cache") == expected
    assert sizes == [4, 2, 4, 2]
    assert retrieve(dataset, student, student.params, cache=tmp_path / "cache") == expected
    assert sizes[4:] == [2]
    retrieve(dataset, student, student.params, cache=tmp_path / "cache", template="{text}")
    assert sizes[5:] == [4, 2]


@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_own_passage_goes_only_on_request(exclude_self: bool) -> None:
    dataset = make_dataset({"a": "lift of a wing", "q": "other"})
    vectors = np.eye(4, dtype=np.float32) + np.float32(0.1) * np.arange(4, dtype=np.float32)
    run, facts = evaluate_embeddings(
        dataset, vectors[:2], vectors, k=2, exclude_self=exclude_self, index="exact"
    )
    scores = vectors[:2] @ vectors.T
    ids = np.array(dataset.corpus.doc_ids)
    for i, (query_id, found) in enumerate(run.items()):
        expected = [d for d in ids[np.argsort(-scores[i])] if not (exclude_self and d == query_id)]
        assert list(found) == expected[:2]
    assert facts == {"index": "exact", "recall_of_index": 1.0}
    assert ("a" in run["a"]) is not exclude_self
    assert drop_self({"a": {"a": 1.0, "b": 0.5}}) == {"a": {"b": 0.5}}


def test_the_report_is_flat_and_the_run_scores_the_same(tmp_path: Path) -> None:
    dataset = make_dataset()
    run = {"q1": {"b": 1.0, "a": 0.5}, "q2": {"a": 1.0, "b": 1.0}}
    baseline = {"q1": {"a": 1.0, "b": 0.5}}
    report = make_report(dataset, run, {"index": "exact"}, relevance_level=1, baseline=baseline)
    write_report(tmp_path / "out", run, report)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "metrics.json",
        "per_query.tsv",
        "run.trec",
    ]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert all(isinstance(value, str | int | float) for value in metrics.values())
    again = score_run(dataset.qrels, read_run(tmp_path / "out" / "run.trec"))
    assert {name: metrics[name] for name in METRICS} == again.mean
    assert (metrics["num_queries"], metrics["num_passages"]) == (2, 4)
    assert (metrics["split"], metrics["relevance_level"], metrics["index"]) == ("test", 1, "exact")
    assert metrics["RR@10"] == 1.0
    assert metrics["RR@10_baseline"] == 0.25
    assert metrics["RR@10_difference"] == 0.75
    assert (metrics["RR@10_wins"], metrics["RR@10_losses"], metrics["RR@10_ties"]) == (2, 0, 0)
    assert metrics["RR@10_p_value"] == 0.5
    rows = [line.split("\t") for line in (tmp_path / "out/per_query.tsv").read_text().splitlines()]
    assert rows[0] == ["query_id", *METRICS]
    for query_id, *values in rows[1:]:
        assert [float(v) for v in values] == [again.per_query[n][query_id] for n in METRICS]


def test_the_table_is_aligned() -> None:
    dataset = make_dataset()
    run = {"q1": {"b": 1.0}}
    lines = format_table(make_report(dataset, run)).splitlines()
    assert len(lines) == 1 + len(METRICS)
    lines = format_table(make_report(dataset, run, baseline={"q2": {"b": 1.0}})).splitlines()
    assert {line.index("1/1/0") for line in lines[1:]} == {lines[0].index("win/loss/tie")}


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_report(tmp_path / "out", {}, make_report(make_dataset(), {}))


@pytest.mark.parametrize("template", ["{titel} {text}", "{title}", "{text", "{}"])
def test_a_wrong_template_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="passage_template"):
        check_template(template)
