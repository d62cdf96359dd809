"""The records of a collection: writing passages and lists, and reading them by row.

RECORDS/{manifest.json, passages/1.0.0, lists/1.0.0}; `tfds.builder_from_directory` reads both sets.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import SupportsIndex

from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.records import tfds_layout
from ldx.records.manifest import remove_manifest
from ldx.records.schema import (
    LIST_FEATURES,
    PASSAGE_FEATURES,
    PASSAGE_SPLIT,
    ListRecord,
    Passage,
    decode_list,
    decode_passage,
    encode_list,
    encode_passage,
    passage_text,
    validate_list,
)


def write_passages(
    records_dir: str | Path, passages: Iterable[Passage], *, shard_size: int | None = None
) -> int:
    """Write the passage set, whose rows follow the order of `passages`, and return its size.

    An old set is replaced when the new one is complete. The manifest is removed before that,
    because it describes the old set. `shard_size` cuts the set into files of that many passages.

    Raises:
      UserError: a text is not valid Unicode.
    """
    num_passages = 0

    def encoded() -> Iterator[bytes]:
        nonlocal num_passages
        for passage in passages:
            yield encode_passage(passage, f"passage {passage.doc_id!r} (row {num_passages})")
            num_passages += 1

    tfds_layout.write_set(
        records_dir,
        "passages",
        PASSAGE_FEATURES,
        {PASSAGE_SPLIT: encoded()},
        shard_size=shard_size,
        before_replacing=lambda: remove_manifest(records_dir),
    )
    return num_passages


def write_lists(
    records_dir: str | Path,
    splits: Mapping[str, Iterable[ListRecord]],
    *,
    shard_size: int | None = None,
) -> dict[str, dict[str, int]]:
    """Write the lists of the splits `train` and `dev`; the passages must be there already.

    Returns the number of lists by split and query type. An old set is replaced when the new one
    is complete; the manifest is removed before. `shard_size` cuts a split into files of that many
    lists.

    Raises:
      UserError: a list is not valid (`validate_list`), or two lists have the same list_id.
    """
    assert set(splits) == {"train", "dev"}, splits.keys()
    num_passages = count_passages(records_dir)
    counts: dict[str, Counter[str]] = {split: Counter() for split in splits}
    list_ids: set[str] = set()

    def encoded(split: str) -> Iterator[bytes]:
        for number, record in enumerate(splits[split]):
            where = f"{split} list {number}"
            validate_list(record, num_passages, where)
            if record.list_id in list_ids:
                raise UserError(f"{where}: the list_id {record.list_id!r} is there already")
            list_ids.add(record.list_id)
            counts[split][record.query_type] += 1
            yield encode_list(record, where)

    tfds_layout.write_set(
        records_dir,
        "lists",
        LIST_FEATURES,
        {split: encoded(split) for split in splits},
        shard_size=shard_size,
        before_replacing=lambda: remove_manifest(records_dir),
    )
    return {split: dict(counter) for split, counter in counts.items()}


def count_passages(records_dir: str | Path) -> int:
    """The size of the passage set, without opening its files."""
    return sum(tfds_layout.read_shard_lengths(records_dir, "passages").get(PASSAGE_SPLIT, []))


def records_fingerprint(records_dir: str | Path, name: str) -> str:
    """A fingerprint of the content of the TFRecord files of `passages` or `lists`."""
    return fingerprint(*tfds_layout.record_files(records_dir, name))


class PassageSet(Sequence[Passage]):
    """The passage set by row: `len(passages)`, `passages[row]`; for `grain.MapDataset.source`.

    Raises:
      UserError: records are missing, truncated or corrupted; the message names file and record.
    """

    def __init__(self, records_dir: str | Path):
        """Open and index the passage set."""
        self.records_dir = Path(records_dir)
        self._records = tfds_layout.SplitReader(records_dir, "passages", PASSAGE_SPLIT)

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._records)

    def __getitem__(self, row: SupportsIndex) -> Passage:  # type: ignore[override]
        """The passage of a row."""
        return decode_passage(*self._records.read(row))

    def __repr__(self) -> str:
        """The folder alone: nothing that changes between processes."""
        return f"PassageSet({str(self.records_dir)!r})"


class PassageTexts:
    """The texts of a passage set as the model sees them: the prompt, then title and text joined."""

    def __init__(
        self,
        passages: PassageSet,
        *,
        prompt: str = "",
        template: str = "{title} {text}",
        max_chars: int | None = None,
    ):
        """Join title and text as the manifest says; `max_chars` cuts before the prompt is added."""
        self._passages = passages
        self._prompt, self._template, self._max_chars = prompt, template, max_chars

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._passages)

    def __getitem__(self, row: SupportsIndex) -> str:
        """The text of the passage of a row."""
        passage = self._passages[row]
        text = passage_text(passage.title, passage.text, self._template, self._max_chars)
        return self._prompt + text

    def __repr__(self) -> str:
        """How the texts are made of the passages; it is a part of the key of a token store."""
        return (
            f"PassageTexts(prompt={self._prompt!r}, template={self._template!r}, "
            f"max_chars={self._max_chars!r})"
        )


class ListSet(Sequence[ListRecord]):
    """The lists of a split by number, each validated; for `grain.MapDataset.source`.

    Raises:
      UserError: records are missing, truncated or corrupted, or a list is not valid.
    """

    def __init__(self, records_dir: str | Path, split: str):
        """Open and index the lists of `split` (`train` or `dev`)."""
        self.records_dir, self.split = Path(records_dir), split
        self._num_passages = count_passages(records_dir)
        self._records = tfds_layout.SplitReader(records_dir, "lists", split)

    def __len__(self) -> int:
        """The number of lists."""
        return len(self._records)

    def __getitem__(self, number: SupportsIndex) -> ListRecord:  # type: ignore[override]
        """The list with a number."""
        data, where = self._records.read(number)
        record = decode_list(data, where)
        validate_list(record, self._num_passages, where)
        return record

    def __repr__(self) -> str:
        """Folder and split alone: nothing that changes between processes."""
        return f"ListSet({str(self.records_dir)!r}, {self.split!r})"
