"""The passages that a language model wrote, in the file that later stages read."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.engines.shards import read_json_lines
from data_prep.pipeline.workspace import Workspace, needed
from ldx.common.errors import UserError
from ldx.common.files import atomic_write
from ldx.records.schema import Passage

DOCUMENTS_NAME = "documents.jsonl"
ID_PREFIX = "synthetic:"
"""The beginning of the doc_ids of written passages; a collection with such doc_ids is refused."""


@dataclass(frozen=True)
class Document:
    """A passage that was written for a query at one level of relevance."""

    query_id: str
    level: int
    text: str

    @property
    def passage(self) -> Passage:
        """The passage as a row of the passage set."""
        return Passage(f"{ID_PREFIX}{self.query_id}:{self.level}", "", self.text)


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write documents.jsonl atomically."""
    with atomic_write(path) as file:
        for document in documents:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")


def load_documents(workspace: Workspace) -> Iterator[Document]:
    """Load what the stage generate_documents left, in the order of the rows after the corpus."""
    path = needed(workspace.prep / DOCUMENTS_NAME, "generate_documents")
    return (Document(**values) for values in read_json_lines(path))


def join_passages(corpus: Iterable[Passage], documents: Iterable[Document]) -> Iterator[Passage]:
    """The passages of the corpus, then those that were written.

    Raises:
      UserError: the doc_id of a passage of the corpus begins with ID_PREFIX.
    """
    for passage in corpus:
        if passage.doc_id.startswith(ID_PREFIX):
            raise UserError(
                f"the corpus has a passage {passage.doc_id!r}, but {ID_PREFIX} begins the doc_ids "
                "of passages that a language model wrote; give it another _id"
            )
        yield passage
    for document in documents:
        yield document.passage
