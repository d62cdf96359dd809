"""A folder of TFRecord files in the layout of TensorFlow Datasets: written whole, read by number.

The folder is FOLDER/{dataset_info.json, features.json, NAME-SPLIT.tfrecord-00000-of-00001, ...}. A
split may be empty; it then has one empty file.
"""

import bisect
import itertools
import operator
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

from ldx.common.errors import UserError
from ldx.common.files import read_json, write_json
from ldx.records.schema import PREPARE_COMMAND, Feature, tfds_features
from ldx.records.tfrecord import TFRecordFile, TFRecordWriter

VERSION = "1.0.0"
INFO_NAME = "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def set_folder(root: str | Path, name: str) -> Path:
    """The folder of the record set `name` under `root`."""
    return Path(root) / name / VERSION


def has_set(root: str | Path, name: str) -> bool:
    """Whether the record set `name` is under `root` and complete."""
    return (set_folder(root, name) / INFO_NAME).is_file()


def _shard_name(name: str, split: str, shard: int, num_shards: int) -> str:
    return f"{name}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def write_set(
    root: str | Path,
    name: str,
    features: Mapping[str, Feature],
    splits: Mapping[str, Iterable[bytes]],
    *,
    before_replacing: Callable[[], None],
    shard_size: int | None = None,
) -> None:
    """Write a record set, or replace the one that is there once the new one is complete.

    Args:
      root: the folder of all record sets.
      name: the name of the set.
      features: the columns of its records.
      splits: serialised records by split, consumed lazily and in order.
      before_replacing: called when the new set is complete, before the old one is removed.
      shard_size: records per file; None writes one file a split.
    """
    assert shard_size is None or shard_size > 0, shard_size
    folder = set_folder(root, name)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        infos = [
            _write_split(temporary, name, split, records, shard_size)
            for split, records in splits.items()
        ]
        info = {"fileFormat": "tfrecord", "name": name, "splits": infos, "version": VERSION}
        write_json(temporary / "features.json", tfds_features(features))
        write_json(temporary / INFO_NAME, info)
        before_replacing()
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(
    folder: Path, name: str, split: str, records: Iterable[bytes], shard_size: int | None
) -> dict[str, Any]:
    records = iter(records)
    lengths: list[int] = []
    num_bytes = 0
    while True:
        with TFRecordWriter(folder / f"{split}.{len(lengths)}") as writer:
            for record in itertools.islice(records, shard_size):
                writer.write(record)
        if not writer.num_records and lengths:
            (folder / f"{split}.{len(lengths)}").unlink()
            break
        lengths.append(writer.num_records)
        num_bytes += writer.num_data_bytes
        if shard_size is None or writer.num_records < shard_size:
            break
    # The number of files, which is part of their names, is known only now.
    for shard in range(len(lengths)):
        target = folder / _shard_name(name, split, shard, len(lengths))
        os.rename(folder / f"{split}.{shard}", target)
    return {
        "filepathTemplate": _TEMPLATE,
        "name": split,
        "numBytes": str(num_bytes),
        "shardLengths": [str(length) for length in lengths],
    }


def _replace_folder(new: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_shard_lengths(root: str | Path, name: str) -> dict[str, list[int]]:
    """How many records each file of each split holds, from dataset_info.json.

    Raises:
      UserError: the set is missing, or ldx did not write its dataset_info.json.
    """
    path = set_folder(root, name) / INFO_NAME
    if not path.is_file():
        raise UserError(
            f"{path}: no such file: the {name} are missing in the records folder {root}; "
            f"make the records with\n  {PREPARE_COMMAND}"
        )
    info = read_json(path)
    try:
        if (info["fileFormat"], info["name"], info["version"]) != ("tfrecord", name, VERSION):
            raise ValueError(f"not version {VERSION} of a set {name} in TFRecord files")
        return {
            split["name"]: [int(length) for length in split["shardLengths"]]
            for split in info["splits"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not the description of a record set that ldx wrote "
            f"({type(error).__name__}: {error}); make the records again with\n  {PREPARE_COMMAND}"
        ) from None


def record_files(root: str | Path, name: str) -> list[Path]:
    """The TFRecord files of a set, in the order of splits and shards."""
    return [
        set_folder(root, name) / _shard_name(name, split, shard, len(lengths))
        for split, lengths in read_shard_lengths(root, name).items()
        for shard in range(len(lengths))
    ]


class SplitReader:
    """The records of one split by number, over all its files; threads may share it.

    Raises:
      UserError: set, split or file is missing, or a file holds another number of records.
    """

    def __init__(self, root: str | Path, name: str, split: str):
        """Open and index every file of the split."""
        splits = read_shard_lengths(root, name)
        folder = set_folder(root, name)
        if split not in splits:
            raise UserError(f"{folder}: no split {split!r}; there are {', '.join(splits)}")
        lengths = splits[split]
        self._files = []
        for shard, length in enumerate(lengths):
            file = TFRecordFile(folder / _shard_name(name, split, shard, len(lengths)))
            if len(file) != length:
                raise UserError(
                    f"{file.path}: holds {len(file)} records, dataset_info.json says {length}; "
                    f"delete the folder {folder} and make the records again with\n"
                    f"  {PREPARE_COMMAND}"
                )
            self._files.append(file)
        self._starts = [0, *itertools.accumulate(lengths)]

    def __len__(self) -> int:
        """The number of records."""
        return self._starts[-1]

    def read(self, number: SupportsIndex) -> tuple[bytes, str]:
        """The data of a record, and its file and number there, for errors."""
        number = range(len(self))[operator.index(number)]
        shard = bisect.bisect_right(self._starts, number) - 1
        file, local = self._files[shard], number - self._starts[shard]
        return file[local], f"{file.path}: record {local}"
