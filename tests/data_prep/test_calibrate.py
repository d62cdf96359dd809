"""Tests of data_prep/calibrate.py and write_tfrecords.py: scores of lists are computed again."""

import json

import numpy as np
import pytest
import scipy
from ml_collections import ConfigDict

from data_prep.corpora.passages import load_passages
from data_prep.lists.prepared import load_lists
from data_prep.lists.results import TAUGHT_FILES
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import load_queries, query_shards
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.teachers.scores import load_scores, score_paths
from ldx.models.student import load_student
from ldx.parallel.mesh import make_mesh
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet
from ldx.retrieval.encoder import Encoder
from tests.data_prep.toy import make_collection, make_config, run_stages


@pytest.fixture(scope="module")
def workspace(tiny_bert, tmp_path_factory):
    """A workspace with two teachers: the hybrid, and a file of scores that lacks some pairs."""
    folder = tmp_path_factory.mktemp("calibrate")
    config = make_config(make_collection(folder / "toy"), tiny_bert)
    workspace = run_stages(config, folder / "work", ["corpus", "generate_queries", "mine"])
    rng = np.random.default_rng(0)
    lines = [
        f"{query.query_id}\td{row}\t{rng.normal() + 9 * (row == query.row):.6f}"
        for query in load_queries(workspace)
        for row in range(60)
        if rng.random() > 0.05 or row == query.row
    ]
    (folder / "scores.tsv").write_text("\n".join(lines) + "\n")
    config.prep.teachers.file = ConfigDict(
        {"kind": "run_file", "path": str(folder / "scores.tsv"), "weight": 3.0}
    )
    config.prep.shard_size = 11
    config.loss.listwise_kl.student_temperature = 0.002  # a random model's scores lie together
    return run_stages(config, folder / "work")


def of_type(workspace: Workspace, query_type: str):
    """Queries of a type, with their candidates and each teacher's scores."""
    parts = [p for p in query_shards(workspace) if p.queries[0].query_type == query_type]
    paths = candidate_paths(workspace)
    queries = [query for part in parts for query in part.queries]
    candidates = Candidates.concatenate([Candidates.load(paths[p.name]) for p in parts])
    width = candidates.rows.shape[1]
    raw = []
    for files in score_paths(workspace).values():
        rows = [row for p in parts for row in load_scores(files[p.name])]
        raw.append(np.stack([np.pad(r, (0, width - len(r)), constant_values=np.nan) for r in rows]))
    return queries, candidates, raw


def test_lists_are_the_best_by_the_weighted_mean_of_calibrated_scores(workspace):
    for query_type, path in TAUGHT_FILES.paths(workspace).items():
        lists = load_lists(path)
        queries, candidates, raw = of_type(workspace, query_type)
        place = {query.query_id: i for i, query in enumerate(queries)}
        all_queries = load_queries(workspace)
        numbers = [place[all_queries[number].query_id] for number in lists.numbers]
        fused = 0
        for weight, scores in zip((3, 1), raw, strict=True):  # by name: file, hybrid
            low, high = np.nanpercentile(scores[numbers], [1, 99])
            fused = fused + weight * np.clip((scores[numbers] - low) / (high - low), 0, 1) / 4
        for i, number in enumerate(numbers):
            own = np.flatnonzero(candidates.rows[number] == queries[number].row)
            order = np.argsort(-np.nan_to_num(fused[i], nan=-1), kind="stable")
            order = [*own, *(c for c in order if c not in own)][:4]
            np.testing.assert_array_equal(lists.rows[i], candidates.rows[number, order])
            np.testing.assert_allclose(lists.teacher_scores[i], fused[i, order], atol=1e-6)
            for t in range(2):
                np.testing.assert_array_equal(lists.raw_scores[i, t], raw[t][number, order])


def test_a_pair_that_one_teacher_lacks_enters_no_list(workspace):
    _, candidates, (scores, hybrid) = of_type(workspace, "title")
    assert (np.isnan(scores) & np.isfinite(hybrid) & (candidates.rows >= 0)).any()
    for path in TAUGHT_FILES.paths(workspace).values():
        assert np.isfinite(load_lists(path).raw_scores).all()


def test_the_report_tells_agreement_and_entropy(workspace):
    facts = TAUGHT_FILES.read_result(workspace)["facts"]["title"]
    assert set(facts) == {"yields", "scales", "agreement", "entropy"}
    assert -1 <= facts["agreement"]["file and hybrid"]["tau"] <= 1
    lists = load_lists(TAUGHT_FILES.paths(workspace)["title"])
    p = np.exp(lists.teacher_scores.astype(np.float64) / 0.3)
    p /= p.sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1) / np.log(4)
    assert facts["entropy"]["median"] == pytest.approx(np.median(entropy), abs=1e-4)


def test_the_matching_temperature_gives_targets_the_students_entropy(workspace):
    lists = load_lists(TAUGHT_FILES.paths(workspace)["title"])
    facts = TAUGHT_FILES.read_result(workspace)["facts"]["title"]["entropy"]
    embeddings = np.load(workspace.prep / "embeddings" / "student" / "passages.npy")
    queries = load_queries(workspace)
    model = load_student(workspace.config.model.path, query_max_length=32, passage_max_length=64)
    encoder = Encoder(model, mesh=make_mesh(1), microbatch_tokens=1024)
    texts = [queries[number].text for number in lists.numbers]
    query_embeddings = encoder.encode(model.params, texts, kind="query")
    student = np.einsum("qd,qld->ql", query_embeddings, embeddings[lists.rows]) / 0.002
    p = scipy.special.softmax(student, axis=1)
    own = np.median(scipy.stats.entropy(p, axis=1) / np.log(4))
    assert facts["student"] == pytest.approx(own, abs=2e-3)
    p = scipy.special.softmax(lists.teacher_scores / facts["matching temperature"], axis=1)
    assert np.median(scipy.stats.entropy(p, axis=1) / np.log(4)) == pytest.approx(own, abs=2e-3)


@pytest.mark.parametrize(
    ("temperature", "word"), [(100.0, "flatter than"), (0.001, "almost one-hot")]
)
def test_targets_that_teach_nothing_are_told(workspace, caplog, temperature, word):
    config = workspace.config.copy_and_resolve_references()
    config.loss.listwise_kl.teacher_temperature = temperature
    run_stages(config, workspace.workdir, ["calibrate"])
    assert word in caplog.text
    run_stages(workspace.config, workspace.workdir)


def test_denoising_leaves_the_positive_alone(workspace):
    config = workspace.config.copy_and_resolve_references()
    config.prep.relative_margin = 0.6
    config.prep.list_size = 3
    other = run_stages(config, workspace.workdir, ["calibrate", "write_tfrecords"])
    yields = TAUGHT_FILES.read_result(other)["facts"]["title"]["yields"]
    assert yields["entries over relative_margin"] > 0
    for split in ("train", "dev"):
        lists = ListSet(other.records, split)
        for record in (lists[i] for i in range(len(lists))):
            positive, rest = record.teacher_scores[0], record.teacher_scores[1:]
            assert (rest <= positive - 0.6 * abs(positive) + 1e-6).all()
    run_stages(workspace.config, workspace.workdir)


def test_the_manifest_has_the_provenance_of_every_stage(workspace):
    manifest = Manifest.read(workspace.records)
    assert [teacher["name"] for teacher in manifest.teachers] == ["file", "hybrid"]
    assert manifest.teachers[0]["weight"] == 3.0
    assert manifest.yields["corpus"]["passages"] == 60
    assert manifest.yields["score"]["file"]["not scored"] > 0
    assert "title" in manifest.yields["calibrate"]["facts"]
    provenance = manifest.provenance()
    assert {"teachers", "calibration", "yields", "seed", "versions"} <= set(provenance)
    json.dumps(provenance)


def test_near_duplicates_are_nobodys_candidates(tiny_bert, tmp_path):
    root = make_collection(tmp_path / "toy")
    config = make_config(root, tiny_bert)
    config.prep.keep_digits = False  # which makes many passages begin alike
    path = root / "corpus.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    copies = [json.dumps(first | {"_id": f"copy{i}"}) + "\n" for i in range(3)]
    path.write_text(path.read_text() + "".join(copies))
    workspace = run_stages(config, tmp_path / "work")
    roles = load_passages(workspace).roles
    assert roles.duplicate[60:].all()
    assert not roles.duplicate[0]
    assert not (roles.gets_queries & roles.excluded).any()
    queries = load_queries(workspace)
    assert not any(roles.duplicate[query.row] for query in queries)
    for path in candidate_paths(workspace).values():
        rows = Candidates.load(path).rows
        assert not roles.excluded[rows[rows >= 0]].any()
