"""A survey of a corpus before it is prepared: its size, and a sample of its texts."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.corpora.api_docs import collect
from data_prep.corpora.collection import API_DOCS, BEIR
from data_prep.pipeline.draws import draw
from data_prep.pipeline.workspace import Workspace
from ldx.common.progress import progress_bar
from ldx.eval.passages import read_passages
from ldx.records.schema import Passage, passage_text

SAMPLE_PASSAGES = 64


@dataclass(frozen=True)
class SamplePassage:
    """A passage of the sample, with its text as it will be prepared."""

    doc_id: str
    text: str


@dataclass(frozen=True)
class Survey:
    """The size of a corpus, and a sample of at most SAMPLE_PASSAGES of its passages."""

    num_passages: int
    sample: list[SamplePassage]

    @property
    def texts(self) -> list[str]:
        """The texts of the sample."""
        return [passage.text for passage in self.sample]


def survey_corpus(workspace: Workspace) -> Survey:
    """Count the passages of a corpus, and draw a sample by their doc_ids."""
    config, number = workspace.config, 0

    def drawn() -> Iterator[tuple[float, int, Passage]]:
        nonlocal number
        bar = progress_bar(_passages(workspace), desc="passages", unit=" passages")
        for number, passage in enumerate(bar, 1):
            yield draw(config.seed, "dry run", passage.doc_id), number, passage

    first = heapq.nsmallest(SAMPLE_PASSAGES, drawn())
    template, max_chars = config.data.passage_template, config.data.max_chars
    sample = [
        SamplePassage(each.doc_id, passage_text(each.title, each.text, template, max_chars))
        for _, _, each in first
    ]
    return Survey(number, sample)


def _passages(workspace: Workspace) -> Iterator[Passage]:
    settings = workspace.settings
    if settings.collection == API_DOCS:
        docs = collect(settings.packages, settings.max_passages).docstrings
        return (Passage(doc.name, "", doc.body) for doc in docs)
    location = workspace.dataset if settings.collection == BEIR else settings.collection
    template = workspace.config.data.passage_template
    placed = read_passages(location, reject=lambda bad: None, template=template)
    return (passage for _, passage in placed)
