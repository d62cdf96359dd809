"""Record sets as TensorFlow Datasets, Grain and we read them; replacing and breaking them."""

import json
import pickle
import shutil

import grain
import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.records.schema import ListRecord, Passage
from ldx.records.sets import (
    ListSet,
    PassageSet,
    PassageTexts,
    count_passages,
    records_fingerprint,
    write_lists,
    write_passages,
)

NUM_PASSAGES = 23
PASSAGES = [
    Passage(f"d{row}", "" if row % 3 else f"Títle {row}", f"text\n{row} 漢字" if row % 5 else "")
    for row in range(NUM_PASSAGES)
]


def make_list(number: int, size: int, **changes) -> ListRecord:
    rng = np.random.default_rng(number)
    values = {
        "list_id": f"l{number}",
        "query_id": f"q{number // 2}",
        "query": f"query ö {number}",
        "query_type": "title" if number % 2 else "keywords",
        "source": "corpus",
        "source_row": number % NUM_PASSAGES - 1,
        "rows": rng.integers(0, NUM_PASSAGES, size),
        "labels": rng.integers(-1, 4, size).astype(np.int32),
        "teacher_scores": rng.random(size * (number % 2), np.float32),
        "raw_scores": rng.random(size * (number % 3), np.float32),
        "order_key": number - 2**62,
    }
    return ListRecord(**{**values, **changes})


TRAIN = [make_list(number, number % 7 + 1) for number in range(40)]
DEV = [make_list(number, 4) for number in range(100, 103)]


@pytest.fixture
def records(tmp_path):
    write_passages(tmp_path, iter(PASSAGES), shard_size=10)
    write_lists(tmp_path, {"train": iter(TRAIN), "dev": iter(DEV)})
    return tmp_path


def same(ours: ListRecord, other: ListRecord) -> bool:
    return all(np.array_equal(value, vars(other)[name]) for name, value in vars(ours).items())


def test_sets_read_what_was_written(records):
    assert list(PassageSet(records)) == PASSAGES
    for split, expected in (("train", TRAIN), ("dev", DEV)):
        lists = ListSet(records, split)
        assert len(lists) == len(expected)
        assert all(map(same, lists, expected))


def test_counts_are_returned(tmp_path):
    assert write_passages(tmp_path, iter(PASSAGES)) == NUM_PASSAGES
    counts = write_lists(tmp_path, {"train": TRAIN, "dev": []})
    assert counts == {"train": {"keywords": 20, "title": 20}, "dev": {}}
    assert count_passages(tmp_path) == NUM_PASSAGES


@pytest.mark.parametrize(("shard_size", "shards"), [(None, 1), (10, 3), (23, 1), (1, 23)])
def test_shards_keep_the_order_of_rows(tmp_path, shard_size, shards):
    write_passages(tmp_path, PASSAGES, shard_size=shard_size)
    assert len(list(tmp_path.glob("passages/1.0.0/*tfrecord*"))) == shards
    passages = PassageSet(tmp_path)
    assert list(passages) == PASSAGES
    assert passages[np.int64(22)] == passages[-1] == PASSAGES[22]
    with pytest.raises(IndexError):
        passages[23]


def test_tfds_reads_both_sets(records):
    import tensorflow_datasets as tfds

    # Files are read interleaved by default; row order needs one at a time.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    builder = tfds.builder_from_directory(records / "passages/1.0.0")
    assert builder.info.splits.total_num_examples == NUM_PASSAGES
    rows = list(tfds.as_numpy(builder.as_dataset(split="all", read_config=config)))
    assert [{k: v.decode() for k, v in row.items()} for row in rows] == [vars(p) for p in PASSAGES]

    builder = tfds.builder_from_directory(records / "lists/1.0.0")
    for split, expected in (("train", TRAIN), ("dev", DEV)):
        assert builder.info.splits[split].num_examples == len(expected)
        rows = list(tfds.as_numpy(builder.as_dataset(split=split, read_config=config)))
        assert len(rows) == len(expected)
        for row, record in zip(rows, expected, strict=True):
            assert row.keys() == vars(record).keys()
            for name, value in vars(record).items():
                if isinstance(value, str):
                    assert row[name].decode() == value
                else:
                    np.testing.assert_array_equal(row[name], value)
                    if isinstance(value, np.ndarray):
                        assert row[name].dtype == value.dtype


def test_files_are_as_tfds_writes_them(records):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict.from_config(str(records / "lists/1.0.0"))
    ours = json.loads((records / "lists/1.0.0/features.json").read_text())
    assert ours == json.loads(json.dumps(to_json(features)))
    builder = tfds.builder_from_directory(records / "passages/1.0.0")
    size = sum(f.stat().st_size for f in records.glob("passages/1.0.0/*tfrecord*"))
    assert builder.info.dataset_size == size - 16 * NUM_PASSAGES


def to_json(features):
    from google.protobuf import json_format

    return json_format.MessageToDict(features.to_proto())


def test_empty_dev_split(tmp_path):
    import tensorflow_datasets as tfds

    write_passages(tmp_path, PASSAGES)
    write_lists(tmp_path, {"train": TRAIN, "dev": []})
    assert len(ListSet(tmp_path, "dev")) == 0
    builder = tfds.builder_from_directory(tmp_path / "lists/1.0.0")
    assert builder.info.splits["dev"].num_examples == 0
    assert len(list(builder.as_dataset(split="train"))) == len(TRAIN)


def test_grain_reads_the_sets(records):
    dataset = grain.MapDataset.source(ListSet(records, "train")).seed(3).shuffle()
    assert sorted(dataset[i].list_id for i in range(len(dataset))) == sorted(
        record.list_id for record in TRAIN
    )
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
    epochs = dataset.repeat(2).to_iter_dataset(options)
    read = [record.list_id for record in epochs]
    assert read == [dataset.repeat(2)[i].list_id for i in range(2 * len(TRAIN))]
    passages = grain.MapDataset.source(PassageSet(records)).map(lambda p: p.doc_id)
    assert list(passages) == [p.doc_id for p in PASSAGES]


def test_sets_pickle(records):
    for opened in (PassageSet(records), ListSet(records, "train")):
        again = pickle.loads(pickle.dumps(opened))
        assert len(again) == len(opened)
        assert repr(again) == repr(opened)
        assert str(again[3]) == str(opened[3])


def test_passage_texts(records):
    texts = PassageTexts(PassageSet(records), prompt="passage: ", max_chars=6)
    assert len(texts) == NUM_PASSAGES
    assert texts[0] == "passage: Títle"
    assert texts[1] == "passage: text\n1"
    again = PassageTexts(PassageSet(records), prompt="passage: ", max_chars=6)
    assert repr(again) == repr(texts)
    assert repr(again) != repr(PassageTexts(PassageSet(records), prompt="passage: "))


def test_fingerprint_is_that_of_the_content(records, tmp_path):
    before = records_fingerprint(records, "passages"), records_fingerprint(records, "lists")
    write_passages(records, PASSAGES, shard_size=10)
    write_lists(records, {"train": TRAIN, "dev": DEV})
    after = records_fingerprint(records, "passages"), records_fingerprint(records, "lists")
    assert before == after
    write_lists(records, {"train": TRAIN, "dev": DEV[:2]})
    assert records_fingerprint(records, "lists") != before[1]


def test_writing_again_replaces_and_leaves_nothing_behind(records):
    (records / "manifest.json").write_text("{}")
    write_passages(records, PASSAGES[:5])
    assert list(PassageSet(records)) == PASSAGES[:5]
    assert [f.name for f in (records / "passages").iterdir()] == ["1.0.0"]
    assert not (records / "manifest.json").exists()


def test_a_failed_writing_leaves_the_old_set(records):
    def failing():
        yield from PASSAGES[:2]
        raise RuntimeError("stop")

    (records / "manifest.json").write_text("{}")
    with pytest.raises(RuntimeError, match="stop"):
        write_passages(records, failing())
    assert list(PassageSet(records)) == PASSAGES
    assert [f.name for f in (records / "passages").iterdir()] == ["1.0.0"]
    assert (records / "manifest.json").exists()


def test_what_a_killed_writing_left_is_cleared(records):
    (records / "passages/.1.0.0.tmp").mkdir()
    (records / "passages/.1.0.0.tmp/corpus.0").write_text("half")
    write_passages(records, PASSAGES[:5])
    assert [f.name for f in (records / "passages").iterdir()] == ["1.0.0"]
    assert not list(records.glob("passages/1.0.0/corpus*"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (make_list(5, 3, teacher_scores=np.array([1, np.nan, 0], np.float32)), "NaN"),
        (make_list(5, 3, rows=np.array([0, 1, NUM_PASSAGES])), "rows has"),
        (make_list(5, 0), "rows is empty"),
        (make_list(1, 3), "list_id 'l1' is there already"),
    ],
)
def test_bad_lists_are_not_written(tmp_path, bad, message):
    write_passages(tmp_path, PASSAGES)
    with pytest.raises(UserError, match=r"dev list 0(.|\n)*" + message):
        write_lists(tmp_path, {"train": TRAIN[:3], "dev": [bad]})
    assert not (tmp_path / "lists/1.0.0").exists()


def test_bad_list_in_the_records_names_file_and_record(records):
    write_passages(records, PASSAGES[:5])
    lists = ListSet(records, "train")
    with pytest.raises(UserError, match=r"lists-train\.tfrecord-00000-of-00001: record \d+: bad"):
        list(lists)


def test_missing_records(tmp_path):
    for make in (PassageSet, lambda d: ListSet(d, "train"), count_passages):
        with pytest.raises(UserError, match=r"python -m data_prep\.run --config="):
            make(tmp_path / "nowhere")


def test_missing_split(records):
    with pytest.raises(UserError, match="no split 'test'; there are train, dev"):
        ListSet(records, "test")


def test_missing_file_of_a_set(records):
    (records / "lists/1.0.0/lists-dev.tfrecord-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"lists-dev(.|\n)*no such file"):
        ListSet(records, "dev")


def test_file_with_fewer_records_than_told(records):
    folder = records / "lists/1.0.0"
    shutil.copy(
        folder / "lists-dev.tfrecord-00000-of-00001", folder / "lists-train.tfrecord-00000-of-00001"
    )
    with pytest.raises(UserError, match=r"holds 3 records, dataset_info\.json says 40"):
        ListSet(records, "train")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"fileFormat": "tfrecord", "name": "lists", "version": "2.0.0"}']
)
def test_strange_dataset_info(records, text):
    (records / "lists/1.0.0/dataset_info.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset_info\.json: not "):
        ListSet(records, "train")
