"""Tests of data_prep/teachers/run_file.py."""

import gzip
import re

import numpy as np
import pytest
import scipy.special

from data_prep.teachers import Pairs, make_teacher
from data_prep.teachers.run_file import RunFile
from ldx.common.errors import UserError
from ldx.eval.beir import read_qrels
from ldx.eval.metrics import read_run, score_run


def pairs(*ids):
    queries, docs = zip(*ids, strict=True)
    return Pairs(queries, ["text"] * len(ids), docs, ["text"] * len(ids))


def teacher_of(path):
    return make_teacher("file", {"kind": "run_file", "path": str(path)})


WANTED = pairs(("q2", "d1"), ("q1", "d2"), ("q1", "d3"), ("q3", "d1"), ("q1", "d1"))
SCORES = [-3.5, 2.0, np.nan, np.nan, 1e-3]


@pytest.mark.parametrize(
    "content",
    [
        "q1 Q0 d1 2 0.001 run\nq1 Q0 d2 1 2.0 run\nq2 Q0 d1 1 -3.5 run\n",
        "q1\tQ0\td1\t2\t0.001\trun\r\nq1\tQ0\td2\t1\t2.0\trun\r\nq2\tQ0\td1\t1\t-3.5\trun",
        "q1\td1\t2\t0.001\n\nq1\td2\t1\t2\nq2\td1\t1\t-3.5\n",
        "q2 d1 -3.5\nq1 d1 1e-3\nq1 d2 2.0\n",
        "query-id\tcorpus-id\tscore\nq2\td1\t-3.5\nq1\td1\t0.001\nq1\td2\t2\n",
        "score docid qid note\n2 d2 q1 a\n-3.5 d1 q2 b\n0.001 d1 q1 c\n",
    ],
)
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_formats(tmp_path, content, suffix):
    path = tmp_path / f"scores{suffix}"
    data = content.encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    teacher = teacher_of(path)
    scores = teacher.score(WANTED)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.array(SCORES, np.float32))
    assert [(p.query_id, p.doc_id) for p in teacher.problems] == [("q1", "d3"), ("q3", "d1")]
    assert "has no such pair" in teacher.problems[0].reason


def test_ids_may_have_blanks_between_tabs(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_text("a query\ta doc\t1.5\nq\td\t2\n")
    scores = teacher_of(path).score(pairs(("a query", "a doc"), ("q", "d")))
    assert scores.tolist() == [1.5, 2.0]


def test_bad_lines_are_reported_together(tmp_path):
    path = tmp_path / "scores.tsv"
    lines = ["q1\td1\t1", "q1\td2", "q1\td3\tnone", "", "q1\td1\t2", "q1\td4\tnan", "q1\td5\t1e39"]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        teacher_of(path)
    message = str(caught.value)
    assert "5 bad line(s)" in message
    assert re.findall(r":(\d+):", message) == ["2", "3", "6", "7", "5"]
    for reason in ("2 column(s), wanted 3", "'none' is not a finite", "an earlier line has"):
        assert reason in message


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "has no scores"), ("a b c d e\n", "5 column"), ("qid docid score\n", "has no scores")],
)
def test_files_without_scores(tmp_path, content, message):
    path = tmp_path / "scores.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        teacher_of(path)


def test_a_truncated_gzip_file(tmp_path):
    path = tmp_path / "scores.tsv.gz"
    lines = "".join(f"q{i} d{i * 7919 % 1000} {i}\n" for i in range(5000))
    path.write_bytes(gzip.compress(lines.encode())[:-2000])
    with pytest.raises(UserError, match="truncated"):
        teacher_of(path)


def test_fingerprint_is_of_the_content(tmp_path):
    one, two, three = (tmp_path / name for name in "abc")
    one.write_text("q d 1\n")
    two.write_text("q d 1\n")
    three.write_text("q d 2\n")
    assert teacher_of(one).fingerprint == teacher_of(two).fingerprint
    assert teacher_of(one).fingerprint != teacher_of(three).fingerprint


@pytest.mark.parametrize(("name", "ndcg"), [("idst_bert_p1", 0.7645), ("p_bert", 0.7380)])
def test_real_teacher_runs(data_dir, name, ndcg):
    """The published nDCG@10 comes out of the scores of all pairs of DL19's judged passages."""
    folder = data_dir / "msmarco_dl19"
    path = folder / "teacher_runs" / f"{name}.tsv.gz"
    with gzip.open(path, "rt") as file:
        rows = [line.split("\t") for line in file]
    order = np.random.default_rng(0).permutation(len(rows))
    sample = pairs(*[(rows[i][0], rows[i][1]) for i in order])
    teacher = teacher_of(path)
    scores = teacher.score(sample)
    assert teacher.problems == []
    run = {}
    for query_id, doc_id, score in zip(sample.query_ids, sample.doc_ids, scores, strict=True):
        run.setdefault(query_id, {})[doc_id] = float(score)
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    assert score_run(qrels, run).mean["nDCG@10"] == pytest.approx(ndcg, abs=5e-5)


def test_real_trec_run(data_dir):
    path = data_dir / "msmarco_dl19" / "runs" / "bm25.trec"
    run = read_run(path)
    ids = [(q, d) for q, docs in run.items() for d in docs]
    expected = np.array([run[q][d] for q, d in ids], np.float32)
    np.testing.assert_array_equal(teacher_of(path).score(pairs(*ids)), expected)


@pytest.mark.parametrize("kind", ["probability", "log_probability"])
def test_probabilities_become_logits(tmp_path, kind):
    logits = np.array([-12.0, -3.0, 0.0, 2.5, 9.0])
    values = scipy.special.expit(logits)
    values = values if kind == "probability" else np.log(values)
    path = tmp_path / "scores.tsv"
    path.write_text("".join(f"q\td{i}\t{value:.12g}\n" for i, value in enumerate(values)))
    teacher = RunFile(str(path), scores=kind)
    sample = pairs(*[("q", f"d{i}") for i in range(5)], ("q", "none"))
    scores = teacher.score(sample)
    np.testing.assert_allclose(scores[:5], logits, rtol=1e-4, atol=1e-6)
    assert np.isnan(scores[5])
    assert teacher.fingerprint != RunFile(str(path)).fingerprint


def test_the_ends_of_probability_are_finite(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_text("q\ta\t0\nq\tb\t1\n")
    scores = RunFile(str(path), scores="probability").score(pairs(("q", "a"), ("q", "b")))
    assert scores.tolist() == [-20.0, 20.0]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [("probability", 1.5, "from 0 to 1"), ("log_probability", 0.5, "to 0"), ("odds", 1, "wanted")],
)
def test_scores_that_are_no_probabilities(tmp_path, kind, value, message):
    path = tmp_path / "scores.tsv"
    path.write_text(f"q\ta\t{value}\n")
    with pytest.raises(UserError, match=message):
        RunFile(str(path), scores=kind)
