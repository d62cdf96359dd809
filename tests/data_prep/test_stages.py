"""Tests of the stages, run one after another in this process, and of what each leaves."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_prep import calibrate, corpus, mine, score, write_tfrecords
from data_prep.corpora.passages import load_passages
from data_prep.pipeline.draws import split_of
from data_prep.pipeline.workspace import Workspace, open_workspace
from data_prep.queries.query import load_queries
from data_prep.retrieval.bm25 import Bm25
from data_prep.retrieval.candidates import Candidates, candidate_paths
from data_prep.retrieval.neighbours import neighbour_order
from data_prep.run import STAGES
from data_prep.teachers.scores import score_paths
from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.eval import beir, metrics
from ldx.records.coverage import Coverage
from ldx.records.manifest import Manifest
from ldx.records.sets import ListSet, PassageSet
from tests.data_prep.toy import NOUNS, make_collection, make_config, run_stages


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return make_collection(tmp_path_factory.mktemp("prep") / "toy")


@pytest.fixture(scope="module")
def prepared(collection, tiny_bert, tmp_path_factory):
    """A workspace with all stages done in this process."""
    return run_stages(make_config(collection, tiny_bert), tmp_path_factory.mktemp("prepared"))


def read_lists(workspace: Workspace) -> dict[str, list]:
    return {split: list(ListSet(workspace.records, split)) for split in ("train", "dev")}


def test_lists_keep_their_promises(prepared):
    passages = PassageSet(prepared.records)
    held_out = set(np.flatnonzero(load_passages(prepared).roles.held_out).tolist())
    assert len(passages) == 60
    assert len(held_out) == 3
    lists = read_lists(prepared)
    assert {record.query_type for record in lists["train"]} == {"sentence", "keywords", "title"}
    for split, records in lists.items():
        for record in records:
            assert len(record.rows) == 4
            assert record.rows[0] == record.source_row
            assert not held_out & set(record.rows.tolist())
            assert split_of(0.3, 0, passages[record.source_row].doc_id) == split
            assert ((record.teacher_scores >= 0) & (record.teacher_scores <= 1)).all()
            assert (np.diff(record.teacher_scores) <= 0).all()
            assert record.source == "toy"
    rows = {split: {r.source_row for r in records} for split, records in lists.items()}
    assert not rows["train"] & rows["dev"]


def test_the_manifest_tells_where_lists_come_from(prepared):
    manifest = Manifest.read(prepared.records)
    assert manifest.collection == "toy"
    (teacher,) = manifest.teachers
    assert (teacher["name"], teacher["kind"]) == ("hybrid", "hybrid")
    assert 0 <= teacher["dense_weight"] <= 1
    assert set(manifest.yields) == set(STAGES[: STAGES.index("write_tfrecords") + 1])
    assert manifest.calibration["teacher_temperature"] == 0.3
    assert set(manifest.calibration["scales"]) == {"sentence", "keywords", "title"}
    assert manifest.passage_template == "{title} {text}"
    assert "in an order of all by the mean embedding" in manifest.order_key


def test_order_keys_are_places_among_neighbours(prepared):
    embeddings = np.load(prepared.prep / "embeddings" / "student" / "passages.npy")
    parts = [Candidates.load(path) for path in candidate_paths(prepared).values()]
    rows = Candidates.concatenate(parts).rows
    means = [embeddings[np.sort(r[:20][r[:20] >= 0])].mean(axis=0) for r in rows]
    places = neighbour_order(np.stack(means))
    number = {q.query_id: i for i, q in enumerate(load_queries(prepared))}
    for records in read_lists(prepared).values():
        assert all(record.order_key == places[number[record.query_id]] for record in records)


def test_baselines_find_what_they_should(prepared):
    dataset = beir.load_dataset(prepared.dataset, "test")
    for name in ("bm25", "teacher"):
        run = metrics.read_run(prepared.baselines / f"{name}.trec")
        assert set(run) == set(dataset.queries)
        scores = metrics.score_run(dataset.qrels, run)
        assert scores.mean["nDCG@10"] > 0.5


def baseline_files(workspace: Workspace) -> set[str]:
    return {path.name for path in workspace.baselines.iterdir()}


def test_the_teacher_of_several_hybrids_is_their_fusion(collection, tiny_bert, tmp_path):
    """Each hybrid has its own dense retriever and weights, and is calibrated as in the lists."""
    config = make_config(collection, tiny_bert)
    config.prep.retrievers.other = ConfigDict({"kind": "dense", "query_prompt": "every wing "})
    sections = {
        "a": {"kind": "hybrid", "dense": "student", "dense_weight": 0.1, "weight": 1.0},
        "b": {"kind": "hybrid", "dense": "other", "dense_weight": 0.8, "weight": 3.0},
    }
    alone = {}  # all 60 passages, more than DEPTH holds back
    for name, section in sections.items():
        config.prep.teachers = ConfigDict({name: section})
        run_stages(config, tmp_path)
        alone[name] = metrics.read_run(tmp_path / "baselines" / "teacher.trec")
    config.prep.teachers = ConfigDict(sections)
    workspace = run_stages(config, tmp_path)
    fused = metrics.read_run(tmp_path / "baselines" / "teacher.trec")
    scales = read_json(workspace.prep / "calibration.json")["calibration"]["scales"]
    assert set(scales) == {"sentence", "keywords", "title"}
    for query_id, scores in fused.items():
        expected = {}
        for doc_id in scores:
            values = [
                section["weight"] * alone[name][query_id][doc_id] / (scale["high"] - scale["low"])
                for name, section in sections.items()
                for scale in (of_type[name] for of_type in scales.values())
            ]
            expected[doc_id] = sum(values) / 4 / len(scales)
        assert len(expected) == 60
        assert scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("teachers", "calibration", "told"),
    [
        ({"file": {"kind": "run_file", "path": "x"}}, "percentile", ": file of config"),
        ({"other": {"kind": "hybrid", "dense_weight": 1.0}}, "rank", "fused by ranks"),
    ],
)
def test_no_run_of_a_teacher_that_cannot_rank_the_corpus(
    prepared, caplog, teachers, calibration, told
):
    config = prepared.config.copy_and_resolve_references()
    config.prep.teachers.update(teachers)
    config.prep.calibration = calibration
    before = (prepared.baselines / "bm25.trec").read_bytes()
    with caplog.at_level("INFO"):
        run_stages(config, prepared.workdir, ["baselines"])
    assert baseline_files(prepared) == {"bm25.trec"}
    assert (prepared.baselines / "bm25.trec").read_bytes() == before
    (line,) = [text for text in caplog.messages if "no run of the teacher" in text]
    assert told in line
    run_stages(prepared.config, prepared.workdir, ["baselines"])
    assert baseline_files(prepared) == {"bm25.trec", "teacher.trec"}


def test_a_second_run_does_nothing_and_a_changed_key_does_what_follows(prepared, capsys):
    run_stages(prepared.config, prepared.workdir)
    assert capsys.readouterr().out.count("up to date") == len(STAGES)
    changed = prepared.config.copy_and_resolve_references()
    changed.prep.list_size = 5
    run_stages(changed, prepared.workdir)
    results = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    done = [name for name in STAGES if results[name] != "up to date"]
    assert done == ["calibrate", "write_tfrecords"]
    run_stages(prepared.config, prepared.workdir)


def test_another_language_has_other_terms(prepared, tmp_path, capsys):
    """Whatever BM25 finds is found anew, and the texts are not read again."""
    shutil.copytree(prepared.workdir, tmp_path / "run")
    capsys.readouterr()
    changed = prepared.config.copy_and_resolve_references()
    changed.prep.language = ""
    run_stages(changed, tmp_path / "run")
    results = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    done = {name for name in STAGES if results[name] != "up to date"}
    assert {"generate_queries", "mine", "baselines"} <= done
    assert "corpus" not in done
    for workdir, num_matches in ((tmp_path / "run", 0), (prepared.workdir, 1)):
        (index,) = (path for path in (workdir / "prep/bm25").iterdir() if path.is_dir())
        assert len(Bm25(index).match(f"{NOUNS[0]}s").rows[:1]) == num_matches


def test_an_output_that_was_damaged_is_made_again(prepared, capsys):
    path = score_paths(prepared)["hybrid"]["title-00000"]
    good = path.read_bytes()
    path.write_bytes(good[:-7])
    run_stages(prepared.config, prepared.workdir)
    assert "score: pairs" in capsys.readouterr().out
    assert path.read_bytes() == good


def shard_times(workspace: Workspace) -> dict[Path, int]:
    folders = ("answers", "candidates", "scores")
    paths = [p for name in folders for p in (workspace.prep / name).rglob("*.*")]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_a_changed_query_type_makes_no_other_again(collection, tiny_bert, tmp_path):
    config = make_config(collection, tiny_bert)
    config.prep.teachers.hybrid.dense_weight = 0.5
    config.prep.query_types = ("sentence",)
    before = shard_times(run_stages(config, tmp_path))
    config.prep.query_types = ("sentence", "title")
    after = shard_times(run_stages(config, tmp_path))
    assert len(before) == 3
    assert before.items() <= after.items()
    assert {path.name.partition("-")[0] for path in after.keys() - before.keys()} == {"title"}


def test_human_queries(collection, tiny_bert, tmp_path):
    config = make_config(collection, tiny_bert)
    config.prep.queries = "human"
    workspace = run_stages(config, tmp_path)
    lists = read_lists(workspace)
    train_qrels = beir.load_dataset(collection, "train").qrels
    records = lists["train"] + lists["dev"]
    assert len(records) >= 28
    passages = PassageSet(workspace.records)
    held_out = set(np.flatnonzero(load_passages(workspace).roles.held_out).tolist())
    for record in records:
        relevant = train_qrels[record.query_id]
        for row, label in zip(record.rows, record.labels, strict=True):
            assert label == relevant.get(passages[row].doc_id, -1)
        assert record.labels[0] == 1
        assert (record.labels == -1).any()
        own = [row for row in range(60) if passages[row].doc_id in relevant]
        assert set(own) - held_out <= set(record.rows.tolist())
        assert record.source_row == -1


def test_human_dev_queries_are_whole_lists_of_dev_alone(collection, tiny_bert, tmp_path):
    """A split "dev" of the collection, which training never sees, with a list_size that cuts."""
    dataset = beir.load_dataset(collection, "train")
    dev = {query_id: {f"d{i}": 1 + i % 2 for i in range(9)} for query_id in ("q1", "q3")}
    train = {query_id: docs for query_id, docs in dataset.qrels.items() if query_id not in dev}
    train["q3"] = {"d40": 1}  # the same words in training: they stay dev's
    root = tmp_path / "with_dev"
    beir.write_dataset(root, dataset.corpus, dataset.queries, {"train": train, "dev": dev})
    config = make_config(root, tiny_bert)
    config.prep.queries = "extractive+human"
    config.prep.num_held_out = 0
    lists = read_lists(run_stages(config, tmp_path))
    records = [record for record in lists["dev"] if record.query_type == "human_dev"]
    assert {record.query_id for record in records} == {"q1", "q3"}
    for record in records:
        more = [1] if record.query_id == "q3" else []  # what training's query of its words has
        assert sorted(record.labels[record.labels > 0]) == [1] * 5 + more + [2] * 4
        assert record.labels[0] == 2
        assert len(record.rows) == 20
    types = {record.query_type for record in lists["train"]}
    assert types == {"sentence", "keywords", "title", "human"}
    assert not {"q1", "q3"} & {record.query_id for record in lists["train"]}
    manifest = Manifest.read(tmp_path / "records")
    assert manifest.num_lists["dev"]["human_dev"] == 2
    assert manifest.judges == {"human": ["people"], "human_dev": ["people"]}
    config.eval.split = "dev"  # what is measured chooses nothing
    types = {record.query_type for record in read_lists(run_stages(config, tmp_path))["dev"]}
    assert "human_dev" not in types


def test_a_collection_without_test_queries(collection, tiny_bert, tmp_path):
    dataset = beir.load_dataset(collection, "train")
    root = tmp_path / "untested"
    beir.write_dataset(root, dataset.corpus, dataset.queries, {"train": dataset.qrels})
    run_stages(make_config(root, tiny_bert), tmp_path)
    assert not (tmp_path / "baselines").exists()


def test_a_bare_corpus_is_enough(collection, tiny_bert, tmp_path):
    """A user with passages only, no query and no judgment."""
    root = tmp_path / "bare"
    root.mkdir()
    (root / "corpus.jsonl").write_bytes((collection / "corpus.jsonl").read_bytes())
    run_stages(make_config(root, tiny_bert), tmp_path)
    assert len(ListSet(tmp_path / "records", "train"))
    assert not (tmp_path / "baselines").exists()


def test_a_collection_of_the_users_is_never_overwritten(collection, tiny_bert, tmp_path):
    config = make_config(collection, tiny_bert)
    config.prep.collection = "api_docs"
    before = (collection / "corpus.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"leave data\.root empty"):
        corpus.STAGE.run(open_workspace(config, tmp_path))
    assert (collection / "corpus.jsonl").read_bytes() == before


def test_the_baselines_are_of_the_split_that_is_reported(prepared, collection, tiny_bert):
    config = make_config(collection, tiny_bert)
    config.eval.split = "train"
    run_stages(config, prepared.workdir, ["baselines"])
    run = metrics.read_run(prepared.baselines / "bm25.trec")
    assert set(run) == set(beir.load_dataset(collection, "train").queries)
    run_stages(prepared.config, prepared.workdir, ["baselines"])


def test_baselines_do_not_depend_on_how_many_queries_are_scored_at_once(prepared, monkeypatch):
    paths = [prepared.baselines / f"{name}.trec" for name in ("bm25", "teacher")]
    before = [metrics.read_run(path) for path in paths]
    paths[0].unlink()
    monkeypatch.setattr("data_prep.teachers.corpus_runs.SCORES_AT_ONCE", 1)
    run_stages(prepared.config, prepared.workdir, ["baselines"])
    for path, expected in zip(paths, before, strict=True):
        run = metrics.read_run(path)
        assert run.keys() == expected.keys()
        for query_id, scores in run.items():
            # z-scores of a random model, whose scores lie within 1e-3: float32 sees 1e-7 of that.
            assert scores == pytest.approx(expected[query_id], abs=1e-3)


def test_baselines_search_passages_whole(collection, tiny_bert, tmp_path):
    """Baselines find a passage by its last words, which are cut off for training."""
    config = make_config(collection, tiny_bert)
    config.data.max_chars = 120
    workspace = run_stages(config, tmp_path)
    whole = tmp_path / "whole"
    config.data.max_chars = None
    expected = run_stages(config, whole)
    # The hybrid's weight is chosen on what is cut.
    assert (workspace.baselines / "bm25.trec").read_bytes() == (
        expected.baselines / "bm25.trec"
    ).read_bytes()


BAD = {
    "corpus": ("corpus.jsonl", lambda text: text + "{broken\n", "1 of 61 records"),
    "queries": ("queries.jsonl", lambda text: text[:-10] + "\n", "queries.jsonl"),
    "qrels": ("qrels/test.tsv", lambda text: text + "q0\td1\thigh\n", "not a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_broken_collections_are_refused_before_anything_is_made_of_them(case, tiny_bert, tmp_path):
    name, spoil, message = BAD[case]
    root = make_collection(tmp_path / "bad")
    (root / name).write_text(spoil((root / name).read_text()))
    workdir = tmp_path / "work"
    with pytest.raises(UserError, match=message):
        run_stages(make_config(root, tiny_bert), workdir, ["corpus"])
    assert {path.name for path in workdir.rglob("*.*")} <= {"corpus.jsonl"}  # the rejects


def test_a_broken_row_is_set_aside(tiny_bert, tmp_path):
    root = make_collection(tmp_path / "bad")
    path = root / "corpus.jsonl"
    path.write_text(path.read_text() + "{broken\n")
    config = make_config(root, tiny_bert)
    config.prep.max_rejects = 0.1
    workspace = run_stages(config, tmp_path / "work")
    (line,) = (workspace.prep / "rejects" / "corpus.jsonl").read_text().splitlines()
    assert "corpus.jsonl:61" in line
    assert "not valid JSON" in (workspace.prep / "health.txt").read_text()
    assert len(PassageSet(workspace.records)) == 60


@pytest.mark.parametrize(
    ("key", "value", "module", "message"),
    [
        ("collection", "wiki", corpus, "no such file or folder"),
        ("max_score", -1.0, calibrate, "no lists: the counts by query type"),
        ("teachers.hybrid.dense_weight", 1.5, score, "dense_weight=1.5"),
        ("teachers.hybrid.bm25", "student", score, "of kind bm25 there are bm25"),
        ("retrievers.bm25.kind", "sparse", mine, "known are bm25"),
        ("language", "klingon", mine, "stemmers of .*english"),
    ],
)
def test_settings_that_cannot_be(prepared, key, value, module, message):
    config = prepared.config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict({f"prep.{key}": value})
    config.data.root = "" if key == "collection" else config.data.root
    with pytest.raises(UserError, match=message):
        module.STAGE.run(open_workspace(config, prepared.workdir))
    run_stages(prepared.config, prepared.workdir)


def test_a_stage_out_of_order_says_what_to_run(collection, tiny_bert, tmp_path):
    with pytest.raises(UserError, match=r"python -m data_prep.corpus"):
        mine.STAGE.run(open_workspace(make_config(collection, tiny_bert), tmp_path))
    config = make_config(collection, tiny_bert)
    config.data.root = ""
    with pytest.raises(UserError, match=r"data\.root is empty"):
        corpus.STAGE.run(open_workspace(config, tmp_path))


@pytest.mark.parametrize(("name", "kept"), [("scifact", 800), ("nfcorpus", 2500)])
def test_human_queries_of_real_collections(data_dir, tiny_bert, tmp_path, name, kept):
    config = make_config(data_dir / name, tiny_bert)
    config.prep.queries = "human"
    config.prep.human_dev_split = ""
    config.prep.num_held_out = 100
    queries = load_queries(run_stages(config, tmp_path, ["corpus", "generate_queries"]))
    assert kept - 100 < len(queries) <= kept + 90
    assert all(query.relevant for query in queries)


def test_the_depth_that_auto_stands_for_is_the_same_work(collection, tiny_bert, tmp_path, capsys):
    config = make_config(collection, tiny_bert)
    config.prep.candidate_depth = 100
    run_stages(config, tmp_path)
    capsys.readouterr()
    config.prep.candidate_depth = "auto"
    run_stages(config, tmp_path)
    assert capsys.readouterr().out.count("up to date") == len(STAGES)


def test_the_manifest_tells_how_much_of_the_corpus_the_lists_touch(prepared, caplog):
    coverage = Coverage.from_yields(Manifest.read(prepared.records).yields)
    rows = [record.rows for record in read_lists(prepared)["train"]]
    assert coverage.lists == len(rows)
    assert coverage.passages == 57
    assert coverage.first == len({int(each[0]) for each in rows})
    assert coverage.first_10 == coverage.anywhere == len(set(np.concatenate(rows).tolist()))
    with caplog.at_level("INFO"):
        write_tfrecords.STAGE.work(prepared)
    assert coverage.sentence() in caplog.text
    assert "there are few training queries (under 500)" in caplog.text
