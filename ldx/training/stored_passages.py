"""Passages that are not trained: each is embedded once, by the base model, before step 1.

Their embeddings are in WORKDIR/passages, memory-mapped, and every batch takes its rows from there.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldx.data.sources import Source
from ldx.models.student import Student
from ldx.parallel.processes import primary_first
from ldx.records.sets import PassageSet, PassageTexts
from ldx.retrieval.embeddings_file import encode_to_file
from ldx.retrieval.encoder import Encoder
from ldx.retrieval.store import EmbeddingStore, get_store


def add_stored_passages(
    sources: Mapping[str, Source], student: Student, workdir: Path
) -> dict[str, Source]:
    """The sources with embeddings of their passages, which are made where missing.

    A kill costs one block of embeddings (`ldx.retrieval.embeddings_file.encode_to_file`).

    Args:
      sources: the corpora.
      student: the base model.
      workdir: the run's folder; texts that its store has are not embedded again.

    Raises:
      UserError: the disk has no room for them.
    """
    stored = {}
    for name, source in sources.items():
        # One process embeds, then the others find the file.
        with primary_first(f"passages of {source.name}"):
            embeddings = _embed(source, student, workdir / "passages" / name, get_store(workdir))
        stored[name] = dataclasses.replace(source, stored=embeddings)
    return stored


def _embed(source: Source, student: Student, folder: Path, store: EmbeddingStore) -> np.ndarray:
    manifest = source.manifest
    texts = PassageTexts(
        PassageSet(source.config.records),
        template=manifest.passage_template,
        max_chars=manifest.max_chars,
    )
    folder.mkdir(parents=True, exist_ok=True)
    student = student.with_prompts(source.config.query_prompt, source.config.passage_prompt)
    return encode_to_file(
        Encoder(student, store=store),
        student.params,
        texts,
        folder / "passages.npy",
        kind="passage",
        key=f"{manifest.fingerprints['passages']} {texts!r}",
        description=f"passages of {source.name}",
    )
