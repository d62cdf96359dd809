"""Collections of a study: found, and sampled with their judgments."""

import pytest

from configs import base
from configs.studies import common
from ldx.common.errors import UserError
from ldx.eval.beir import Corpus, Dataset, load_dataset, read_corpus, read_qrels, write_dataset
from ldx.studies import samples
from ldx.studies.declare import expand, read_study
from ldx.studies.samples import check_samples, find_root, sample_collection

SAMPLE = {"num_passages": None, "num_queries": None, "from_split": "", "seed": 0}


@pytest.fixture
def collection(tmp_path):
    """100 passages; 20 test queries with two relevant ones each, 10 training queries."""
    ids = [f"d{i}" for i in range(100)]
    queries = {f"q{i}": f"query {i}" for i in range(20)} | {
        f"t{i}": f"train {i}" for i in range(10)
    }
    test = {f"q{i}": {f"d{i}": 2, f"d{i + 20}": 1, f"d{i + 40}": 0} for i in range(20)}
    train = {f"t{i}": {f"d{i}": 1, "d99": 1} for i in range(10)}
    corpus = Corpus(ids, [""] * 100, [f"text {i}" for i in range(100)])
    write_dataset(tmp_path / "toy", corpus, queries, {"test": test, "train": train})
    return str(tmp_path / "toy")


def test_samples_are_nested_and_keep_what_is_relevant(collection, tmp_path):
    whole = load_dataset(collection, "test")
    sets: list[Dataset] = []
    for number in (12, 30, 60):
        sample = SAMPLE | {"num_passages": number, "num_queries": 5}
        folder = sample_collection(collection, "test", sample, tmp_path / "samples")
        part = load_dataset(folder, "test")
        assert len(part.corpus) == number
        assert len(part.queries) == 5
        assert list(part.queries) == (list(sets[0].queries) if sets else list(part.queries))
        for query, grades in part.qrels.items():
            inside = {d: g for d, g in whole.qrels[query].items() if d in part.corpus.doc_ids}
            assert grades == inside
            assert {d for d, g in whole.qrels[query].items() if g} <= grades.keys()
        sets.append(part)
        # Order and texts are those of the whole, and no training judgment is of a missing passage.
        rows = [int(doc_id[1:]) for doc_id in part.corpus.doc_ids]
        assert rows == sorted(rows)
        assert part.corpus.texts == [f"text {row}" for row in rows]
        if (path := tmp_path / "samples" / folder / "qrels" / "train.tsv").exists():
            docs = {doc for grades in read_qrels(path).values() for doc in grades}
            assert docs <= set(part.corpus.doc_ids)
    small, middle, large = (set(part.corpus.doc_ids) for part in sets)
    assert small < middle < large


def test_queries_are_put_in_order_once(collection, tmp_path, monkeypatch):
    class Counted(dict):
        rounds = 0

        def __iter__(self):
            Counted.rounds += 1
            return super().__iter__()

    read = samples.read_judgments
    monkeypatch.setattr(samples, "read_judgments", lambda *names: Counted(read(*names)))
    sample = SAMPLE | {"num_passages": 50, "num_queries": 5}
    sample_collection(collection, "test", sample, tmp_path / "samples")
    assert 1 <= Counted.rounds < 5  # of 20 queries


def test_a_sample_is_made_once_and_another_seed_is_another(collection, tmp_path):
    sample = SAMPLE | {"num_passages": 50, "num_queries": 5}
    first = sample_collection(collection, "test", sample, tmp_path)
    before = (tmp_path / first / "corpus.jsonl").stat().st_mtime_ns
    assert sample_collection(collection, "test", sample, tmp_path) == first
    assert (tmp_path / first / "corpus.jsonl").stat().st_mtime_ns == before
    other = sample_collection(collection, "test", sample | {"seed": 1}, tmp_path)
    assert read_corpus(other).doc_ids != read_corpus(first).doc_ids


def test_the_whole_is_the_collection_itself(collection, tmp_path):
    assert sample_collection(collection, "test", SAMPLE, tmp_path / "s") == collection
    assert sample_collection("", "test", SAMPLE | {"num_passages": 5}, tmp_path / "s") == ""
    assert not (tmp_path / "s").exists()


def test_queries_alone_are_sampled(collection, tmp_path):
    whole = load_dataset(collection, "test")
    sample = SAMPLE | {"num_queries": 5}
    part = load_dataset(sample_collection(collection, "test", sample, tmp_path / "s"), "test")
    assert part.corpus == whole.corpus
    assert len(part.queries) == 5
    assert part.qrels == {query: whole.qrels[query] for query in part.queries}
    # They are those of a smaller corpus, too.
    small = sample_collection(collection, "test", sample | {"num_passages": 30}, tmp_path / "s")
    assert load_dataset(small, "test").queries == part.queries


def cells(sample: dict, axes: dict | None = None):
    config = common.make_study("toy", "Does it?", base.get_config(), axes or {"x": {"y": {}}})
    config.study.sample.update(sample)
    return expand(read_study(config.to_dict()))


BOTH = {"dataset": {"api_docs": common.API_DOCS, "scifact": common.SCIFACT}}


@pytest.mark.parametrize("key", ["num_passages", "num_queries", "from_split", "seed"])
def test_a_sample_of_what_data_prep_makes_is_refused(key):
    value = "train" if key == "from_split" else 100
    with pytest.raises(UserError, match="change nothing in this study") as caught:
        check_samples(cells({key: value}))
    assert f"config.study.sample.{key}={value!r}" in str(caught.value)
    assert "prep.max_passages" in str(caught.value)


def test_a_sample_that_some_cells_ignore_is_told(caplog):
    with caplog.at_level("WARNING"):
        check_samples(cells({}, BOTH))
        assert not caplog.messages
        check_samples(cells({"num_queries": 100, "seed": 3}, BOTH))
    assert caplog.messages == [
        "config.study.sample is ignored for api_docs: data_prep makes this collection"
    ]


def test_a_seed_alone_samples_nothing():
    with pytest.raises(UserError, match=r"config\.study\.sample\.seed=3"):
        check_samples(cells({"seed": 3}, BOTH))
    # A key that acts elsewhere does not hide one that does not act.
    axes = {"dataset": {"a": common.API_DOCS | {"sample.num_passages": 5}, "b": common.SCIFACT}}
    with pytest.raises(UserError, match=r"nothing in this study:\n.*num_passages=5\nSampled"):
        check_samples(cells({"num_queries": 100}, axes))


@pytest.mark.parametrize("key", ["num_passages", "num_queries"])
def test_bad_numbers_of_a_sample(key):
    axes = {"size": {"none": {f"sample.{key}": 0}}}
    with pytest.raises(UserError, match=rf"config\.study\.sample\.{key}=0: wanted at least 1"):
        check_samples(cells({}, axes))


def test_a_test_split_out_of_training_queries(collection, tmp_path):
    sample = SAMPLE | {"from_split": "train", "num_queries": 4}
    folder = sample_collection(collection, "held_out", sample, tmp_path / "samples")
    held_out, train = (load_dataset(folder, split) for split in ("held_out", "train"))
    assert len(held_out.corpus) == 100
    assert len(held_out.queries) == 4
    assert len(train.queries) == 6
    assert held_out.queries.keys() | train.queries.keys() == {f"t{i}" for i in range(10)}


def test_too_small_a_sample(collection, tmp_path):
    sample = SAMPLE | {"num_passages": 39}
    with pytest.raises(UserError, match=r"40 passages of .* relevant to 20 queries, more than"):
        sample_collection(collection, "test", sample, tmp_path / "samples")
    assert not list((tmp_path / "samples").glob("toy*"))


def test_roots(collection, tmp_path, monkeypatch):
    monkeypatch.delenv("LDX_DATA_DIR", raising=False)
    assert find_root("", {}) == ""
    assert find_root("named", {"named": collection}) == collection
    with pytest.raises(UserError, match=r"--config\.study\.roots\.toy=FOLDER, or set LDX_DATA_DIR"):
        find_root("toy", {"toy": ""})
    monkeypatch.setenv("LDX_DATA_DIR", str(tmp_path))
    assert find_root("toy", {"toy": ""}) == collection
    with pytest.raises(UserError, match=r"config\.study\.roots\.other=.*no such folder"):
        find_root("other", {"other": ""})
    with pytest.raises(UserError, match=r"config\.data\.root=/absent: no such folder"):
        find_root("/absent", {})
