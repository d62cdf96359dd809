"""The records that data_prep writes and the trainer reads: passages, and lists of them.

A list holds rows of the passage set and scores, but no passage's text. Shapes: L entries of a list,
T teachers.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldx.common.errors import UserError, listing
from ldx.records.example import Feature, decode_example, encode_example

FORMAT_VERSION = 1
"""The version of the format; it is raised whenever an older ldx could not read new records."""

PREPARE_COMMAND = "python -m data_prep.run --config=FILE.py --workdir=DIR"
"""The command that makes a folder of records."""

HUMAN_DEV = "human_dev"
"""The type of queries that people wrote and judged for dev. Their lists may have hundreds of
passages, so no loss is computed on them; dev nDCG is."""

LOG = "log"
"""The type of queries that people typed and nobody judged: a query log's. Their positive is the
passage that the teacher scores highest."""

JUDGED_TYPES = ("human", HUMAN_DEV)
"""The types of queries that people wrote and judged."""

HUMAN_TYPES = (*JUDGED_TYPES, LOG)
"""The types of queries that people wrote."""


class Judge(enum.StrEnum):
    """Who said what is relevant to a query that people wrote; the values stand in manifests."""

    PEOPLE = "people"
    LANGUAGE_MODEL = "a language model"
    RETRIEVERS = "retrievers"
    TEACHER = "the teacher"


UNKNOWN_JUDGE = "a source that the records do not name"
"""The judge of graded lists in records whose manifest has no `judges`."""


PASSAGE_SPLIT = "corpus"
"""The one split of the passage set. TensorFlow Datasets also reads it as `all`, its word for every
split; a stored split cannot have that name, because `all` would then expand to itself forever."""

PASSAGE_FEATURES: Mapping[str, Feature] = {
    "doc_id": Feature("string"),
    "title": Feature("string"),
    "text": Feature("string"),
}

LIST_FEATURES: Mapping[str, Feature] = {
    "list_id": Feature("string"),
    "query_id": Feature("string"),
    "query": Feature("string"),
    "query_type": Feature("string"),
    "source": Feature("string"),
    "source_row": Feature("int64"),
    "rows": Feature("int64", many=True),
    "labels": Feature("int32", many=True),
    "teacher_scores": Feature("float32", many=True),
    "raw_scores": Feature("float32", many=True),
    "order_key": Feature("int64"),
}


@dataclass(frozen=True)
class Passage:
    """One document of the collection; its row is its place in the passage set."""

    doc_id: str
    title: str
    text: str


@dataclass(frozen=True, eq=False)
class ListRecord:
    """A query and its candidates; entry 0 is the positive.

    Attributes:
      list_id: the id of the list, unique over all splits.
      query_id: the id of the query.
      query: the text of the query.
      query_type: the kind of the query, such as `title` or `human`.
      source: the corpus that the query was made for.
      source_row: the row of the passage that the query was made from; -1 for none.
      rows: int64[L], rows of the passage set; duplicates are allowed.
      labels: int32[L], human or generated grades, -1 where unjudged.
      teacher_scores: float32[L], calibrated and fused, higher is better; or empty.
      raw_scores: float32[T * L], each teacher's own scores, teacher after teacher; or empty.
      order_key: a key that is close for lists that share passages; it serves to make batches whose
        lists overlap.
    """

    list_id: str
    query_id: str
    query: str
    query_type: str
    source: str
    source_row: int
    rows: np.ndarray
    labels: np.ndarray
    teacher_scores: np.ndarray
    raw_scores: np.ndarray
    order_key: int = 0


def passage_text(
    title: str, text: str, template: str = "{title} {text}", max_chars: int | None = None
) -> str:
    """Join title and text by the template, stripped and cut at `max_chars` characters."""
    joined = template.format(title=title, text=text).strip()
    return joined[:max_chars].rstrip()


def check_template(template: str) -> None:
    """Refuse a template that does not join title and text, before the work begins.

    Raises:
      UserError: the template has other fields, or no {text}.
    """
    try:
        passage_text("", "", template)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"passage_template={template!r}: {error!r}; it may have {{title}} and {{text}} in it"
        ) from None
    if "{text}" not in template:
        raise UserError(f"passage_template={template!r} has no {{text}} in it")


def validate_list(record: ListRecord, num_passages: int, where: str) -> None:
    """Check a list against the schema and the size of the passage set.

    Raises:
      UserError: the list is bad; the message has everything that is wrong with it.
    """
    problems = []
    size = len(record.rows)
    if not record.list_id:
        problems.append("list_id is empty")
    if not record.query.strip():
        problems.append("query is empty")
    if size == 0:
        problems.append("rows is empty: a list needs at least one passage")
    elif record.rows.min() < 0 or record.rows.max() >= num_passages:
        wrong = [int(row) for row in record.rows if not 0 <= row < num_passages]
        problems.append(f"rows has {wrong[:5]}; the passage set has rows 0 to {num_passages - 1}")
    if not -1 <= record.source_row < num_passages:
        problems.append(f"source_row is {record.source_row}; allowed are -1 to {num_passages - 1}")
    if len(record.labels) != size:
        problems.append(f"labels has {len(record.labels)} values for {size} rows")
    if len(record.teacher_scores) not in (0, size):
        problems.append(f"teacher_scores has {len(record.teacher_scores)} values for {size} rows")
    if len(record.raw_scores) % max(size, 1):
        problems.append(f"raw_scores has {len(record.raw_scores)} values for {size} rows")
    for name in ("teacher_scores", "raw_scores"):
        finite = np.isfinite(getattr(record, name))
        if not finite.all():
            problems.append(f"{name}[{int(finite.argmin())}] is NaN or infinite")
    if problems:
        raise UserError(f"{where}: bad list {record.list_id!r}\n{listing(problems)}")


def encode_passage(passage: Passage, where: str = "passage") -> bytes:
    """Serialise a passage as a tf.train.Example."""
    return encode_example(vars(passage), PASSAGE_FEATURES, where)


def decode_passage(data: bytes, where: str = "passage") -> Passage:
    """Parse a passage; `where` names the file and the record in errors."""
    return Passage(**decode_example(data, PASSAGE_FEATURES, where))


def encode_list(record: ListRecord, where: str = "list") -> bytes:
    """Serialise a list as a tf.train.Example."""
    return encode_example(vars(record), LIST_FEATURES, where)


def decode_list(data: bytes, where: str = "list") -> ListRecord:
    """Parse a list without validating it; `where` names the file and the record in errors."""
    return ListRecord(**decode_example(data, LIST_FEATURES, where))


def tfds_features(features: Mapping[str, Feature]) -> dict[str, Any]:
    """The content of features.json, by which TensorFlow Datasets decodes records."""
    root = "tensorflow_datasets.core.features"
    columns: dict[str, Any] = {}
    for name, feature in sorted(features.items()):
        if feature.dtype == "string":
            columns[name] = {"pythonClassName": f"{root}.text_feature.Text", "text": {}}
            continue
        shape = {"dimensions": ["-1"]} if feature.many else {}
        columns[name] = {
            "pythonClassName": f"{root}.tensor_feature.Tensor",
            "tensor": {"dtype": feature.dtype, "encoding": "none", "shape": shape},
        }
    return {
        "pythonClassName": f"{root}.features_dict.FeaturesDict",
        "featuresDict": {"features": columns},
    }
