"""Records survive their encoding exactly, and a bad one is told with all that is wrong."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ldx.common.errors import UserError
from ldx.records.example import Feature, decode_example, encode_example
from ldx.records.schema import (
    LIST_FEATURES,
    PASSAGE_FEATURES,
    ListRecord,
    Passage,
    check_template,
    decode_list,
    decode_passage,
    encode_list,
    encode_passage,
    passage_text,
    validate_list,
)

texts = st.text()
int64s = st.integers(-(2**63), 2**63 - 1)


def arrays(dtype: type, **kwargs) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(dtype, st.integers(0, 30), **kwargs)


records = st.builds(
    ListRecord,
    list_id=texts,
    query_id=texts,
    query=texts,
    query_type=texts,
    source=texts,
    source_row=int64s,
    rows=arrays(np.int64),
    labels=arrays(np.int32),
    teacher_scores=arrays(np.float32),
    raw_scores=arrays(np.float32),
    order_key=int64s,
)


def good_list(**changes) -> ListRecord:
    values = {
        "list_id": "l1",
        "query_id": "q1",
        "query": "why",
        "query_type": "title",
        "source": "c",
        "source_row": -1,
        "rows": np.array([4, 0, 4], np.int64),
        "labels": np.array([1, -1, -1], np.int32),
        "teacher_scores": np.array([1, 0.5, 0], np.float32),
        "raw_scores": np.arange(6, dtype=np.float32),
        "order_key": 0,
    }
    return ListRecord(**{**values, **changes})


def assert_same(ours: ListRecord, other: ListRecord) -> None:
    for field in dataclasses.fields(ListRecord):
        ours_value, other_value = getattr(ours, field.name), getattr(other, field.name)
        if isinstance(ours_value, np.ndarray):
            assert ours_value.dtype == other_value.dtype
        np.testing.assert_array_equal(ours_value, other_value)


@given(records)
def test_list_round_trip(record):
    assert_same(decode_list(encode_list(record)), record)
    assert encode_list(record) == encode_list(decode_list(encode_list(record)))


@given(texts, texts, texts)
def test_passage_round_trip(doc_id, title, text):
    passage = Passage(doc_id, title, text)
    assert decode_passage(encode_passage(passage)) == passage


def test_features_name_every_field():
    assert list(LIST_FEATURES) == [f.name for f in dataclasses.fields(ListRecord)]
    assert list(PASSAGE_FEATURES) == [f.name for f in dataclasses.fields(Passage)]


def test_lone_surrogate_is_named():
    with pytest.raises(UserError, match=r"passage 7: text is not valid Unicode"):
        encode_passage(Passage("d", "", "\ud800"), "passage 7")


def test_missing_feature():
    data = encode_example({"doc_id": "d"}, {"doc_id": Feature("string")}, "")
    with pytest.raises(UserError, match=r"f\.tfrecord: record 3: the feature title is missing"):
        decode_passage(data, "f.tfrecord: record 3")


def test_mistyped_feature():
    features = {**PASSAGE_FEATURES, "title": Feature("int64")}
    data = encode_example({"doc_id": "d", "title": 3, "text": ""}, features, "")
    with pytest.raises(UserError, match=r"record 3: the feature title is a int64_list, not"):
        decode_passage(data, "record 3")


@pytest.mark.parametrize("values", [[], [1, 2]])
def test_single_value_feature_with_another_number_of_values(values):
    data = encode_example({"n": values}, {"n": Feature("int64", many=True)}, "")
    with pytest.raises(UserError, match=f"feature n has {len(values)} values, not one"):
        decode_example(data, {"n": Feature("int64")}, "here")


def test_number_too_big_for_int32():
    data = encode_example({"n": [2**40]}, {"n": Feature("int64", many=True)}, "")
    with pytest.raises(UserError, match="n does not fit int32"):
        decode_example(data, {"n": Feature("int32", many=True)}, "here")


def test_not_an_example():
    with pytest.raises(UserError, match=r"record 0: not a tf\.train\.Example"):
        decode_passage(b"\xff\xff", "record 0")


def test_text_not_utf8():
    import tensorflow as tf

    def feature(value: bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {"doc_id": feature(b"d"), "title": feature(b"\xff"), "text": feature(b"")}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    with pytest.raises(UserError, match="the feature title is not valid UTF-8"):
        decode_passage(example.SerializeToString(), "record 0")


@given(records)
def test_bytes_mean_the_same_to_tensorflow(record):
    import tensorflow as tf

    example = tf.train.Example.FromString(encode_list(record))
    columns = example.features.feature
    assert columns["query"].bytes_list.value[0].decode() == record.query
    np.testing.assert_array_equal(list(columns["rows"].int64_list.value), record.rows)
    assert columns["rows"].WhichOneof("kind") == "int64_list"
    np.testing.assert_array_equal(
        np.array(columns["raw_scores"].float_list.value, np.float32), record.raw_scores
    )
    assert_same(decode_list(example.SerializeToString()), record)


def test_good_lists():
    validate_list(good_list(), 5, "here")
    empty = np.zeros(0, np.float32)
    validate_list(good_list(teacher_scores=empty, raw_scores=empty, source_row=4), 5, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": np.zeros(0, np.int64)}, "rows is empty"),
        ({"rows": np.array([0, 5, 1])}, r"rows has \[5\]; the passage set has rows 0 to 4"),
        ({"rows": np.array([0, -1, 1])}, r"rows has \[-1\]"),
        ({"labels": np.zeros(2, np.int32)}, "labels has 2 values for 3 rows"),
        ({"teacher_scores": np.zeros(2, np.float32)}, "teacher_scores has 2 values for 3 rows"),
        ({"teacher_scores": np.array([1, np.nan, 0])}, r"teacher_scores\[1\] is NaN or infinite"),
        ({"raw_scores": np.array([1, 0, -np.inf])}, r"raw_scores\[2\] is NaN or infinite"),
        ({"raw_scores": np.zeros(4, np.float32)}, "raw_scores has 4 values for 3 rows"),
        ({"source_row": 5}, "source_row is 5; allowed are -1 to 4"),
        ({"source_row": -2}, "source_row is -2"),
        ({"list_id": ""}, "list_id is empty"),
        ({"query": " "}, "query is empty"),
    ],
)
def test_bad_lists(changes, message):
    with pytest.raises(UserError, match=message):
        validate_list(good_list(**changes), 5, "here")


def test_all_that_is_wrong_is_told_at_once():
    bad = good_list(labels=np.zeros(0, np.int32), source_row=9, rows=np.array([7]))
    with pytest.raises(UserError, match="here: bad list 'l1'") as error:
        validate_list(bad, 5, "here")
    assert all(word in str(error.value) for word in ("rows has [7]", "source_row", "labels"))


@pytest.mark.parametrize(
    ("title", "text", "template", "max_chars", "expected"),
    [
        ("T", "x", "{title} {text}", None, "T x"),
        ("", "x ", "{title} {text}", None, "x"),
        ("T", "{title} {0}", "{title} {text}", None, "T {title} {0}"),
        ("T", " abc def", "{text}", 4, "abc"),
        ("", "", "{title} {text}", 10, ""),
    ],
)
def test_passage_text(title, text, template, max_chars, expected):
    assert passage_text(title, text, template, max_chars) == expected


@pytest.mark.parametrize("template", ["{titel} {text}", "{title}", "{text", "{}"])
def test_a_wrong_template_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="passage_template"):
        check_template(template)
