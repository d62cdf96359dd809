"""TFRecord files against TensorFlow's own, and every way in which a file can be broken."""

import concurrent.futures
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldx.common.errors import UserError
from ldx.records.tfrecord import FRAME_BYTES, TFRecordFile, TFRecordWriter, masked_crc

RECORDS = [b"", b"one", b"\x00" * 9, bytes(range(50))]


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "x.tfrecord", RECORDS)


def write(path, records):
    with TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


def read_all(path):
    file = TFRecordFile(path)
    return [file[number] for number in range(len(file))]


@given(st.lists(st.binary(max_size=300)))
def test_round_trip(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("r") / "x.tfrecord"
    assert read_all(write(path, records)) == records
    assert path.stat().st_size == sum(len(each) + FRAME_BYTES for each in records)


def test_sequence_protocol(path):
    file = TFRecordFile(path)
    assert list(file) == RECORDS
    assert file[-1] == RECORDS[-1]
    with pytest.raises(IndexError):
        file[len(RECORDS)]


def test_empty_file(tmp_path):
    assert len(TFRecordFile(write(tmp_path / "empty", []))) == 0


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none: no such file(.|\n)*data_prep\.run"):
        TFRecordFile(tmp_path / "none")


def test_tensorflow_reads_ours_and_we_read_tensorflows(path, tmp_path):
    import tensorflow as tf

    assert [x.numpy() for x in tf.data.TFRecordDataset(str(path))] == RECORDS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert read_all(tmp_path / "theirs") == RECORDS
    assert (tmp_path / "theirs").read_bytes() == path.read_bytes()


def test_a_flipped_bit_anywhere_is_found(path):
    data = path.read_bytes()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"x\.tfrecord: (corrupted|truncated)"):
            read_all(path)


def test_truncation_anywhere_is_found(path):
    data = path.read_bytes()
    ends = {0}
    for record in RECORDS:
        ends.add(max(ends) + FRAME_BYTES + len(record))
    for size in range(len(data)):
        path.write_bytes(data[:size])
        if size in ends:
            # A whole number of records: only the counts of dataset_info.json can tell.
            assert read_all(path) == RECORDS[: sorted(ends).index(size)]
        else:
            with pytest.raises(UserError, match=r"x\.tfrecord: truncated in record \d"):
                read_all(path)


def test_message_says_record_byte_and_command(path):
    data = bytearray(path.read_bytes())
    start = 2 * FRAME_BYTES + len(RECORDS[1])
    data[start + 13] ^= 1
    path.write_bytes(data)
    file = TFRecordFile(path)
    assert file[1] == RECORDS[1]
    with pytest.raises(UserError, match=rf"record 2, which starts at byte {start};") as error:
        file[2]
    assert "python -m data_prep.run --config=" in str(error.value)


def test_absurd_length_with_a_right_checksum(path):
    length = struct.pack("<Q", 2**63)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + b"x" * 50)
    with pytest.raises(UserError, match="truncated in record 0"):
        TFRecordFile(path)


@pytest.mark.parametrize("size", [0, 20, 40])
def test_changes_after_opening_are_found(path, size):
    file = TFRecordFile(path)
    with open(path, "r+b") as changed:
        changed.truncate(size)
    with pytest.raises(UserError, match="truncated since it was opened"):
        file[3]


def test_threads_share_a_file(tmp_path):
    records = [str(number).encode() * 100 for number in range(500)]
    file = TFRecordFile(write(tmp_path / "x", records))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(file.__getitem__, list(range(500)) * 4)) == records * 4


def test_pickle(path):
    file = pickle.loads(pickle.dumps(TFRecordFile(path)))
    assert list(file) == RECORDS
