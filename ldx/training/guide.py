"""A guide model: a passage that it puts closer to a query than the positive is no negative there.

It embeds every query and passage of the records once, before step 1, into WORKDIR/guide. Each batch
takes its rows from there, and `ldx.losses.info_nce` compares them (GISTEmbed, arXiv 2402.16829).
"""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldx.common.errors import UserError
from ldx.common.sections import build, check_keys
from ldx.data.lists import GuideEmbeddings
from ldx.data.sources import Source
from ldx.losses import LOSSES
from ldx.models.student import Student, load_student
from ldx.parallel.processes import primary_first
from ldx.records.sets import PassageSet, PassageTexts
from ldx.retrieval.embeddings_file import encode_to_file
from ldx.retrieval.encoder import Encoder
from ldx.retrieval.store import get_store
from ldx.step.objective import Objective


def load_guide(section: Mapping[str, Any], objective: Objective) -> Student | None:
    """The model of `config.guide`; None where its path is empty.

    Raises:
      UserError: a key is unknown, there is no such model, or no loss would use it.
    """
    check_keys(section, list(inspect.signature(load_student).parameters), "guide")
    if not section["path"]:
        return None
    if not objective.uses_guide:
        users = [loss.name for loss in LOSSES.values() if loss.uses_guide]
        raise UserError(
            f"config.guide.path={section['path']!r}: only {' and '.join(users)} uses a guide, and "
            f"config.loss.{users[0]}.weight is 0"
        )
    return build(load_student, section, "guide")


def add_guide(sources: Mapping[str, Source], guide: Student, workdir: Path) -> dict[str, Source]:
    """The sources with the guide's embeddings in their lists, which are made where missing.

    A kill costs one block of embeddings (`ldx.retrieval.embeddings_file.encode_to_file`).

    Raises:
      UserError: the disk has no room for them.
    """
    encoder = Encoder(guide, store=get_store(workdir))
    guided = {}
    for name, source in sources.items():
        # One process embeds, then the others find the files.
        with primary_first(f"guide of {source.name}"):
            embeddings = _embed(source, encoder, workdir / "guide" / name)
        guided[name] = dataclasses.replace(
            source,
            train=dataclasses.replace(source.train, guide=embeddings),
            dev=dataclasses.replace(source.dev, guide=embeddings),
        )
    return guided


def _embed(source: Source, encoder: Encoder, folder: Path) -> GuideEmbeddings:
    manifest = source.manifest
    passages = PassageTexts(
        PassageSet(source.config.records),
        template=manifest.passage_template,
        max_chars=manifest.max_chars,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return GuideEmbeddings(
        queries=encode_to_file(
            encoder,
            encoder.student.params,
            source.query_texts,
            folder / "queries.npy",
            kind="query",
            key=manifest.fingerprints["lists"],
            description="queries, by the guide",
        ),
        passages=encode_to_file(
            encoder,
            encoder.student.params,
            passages,
            folder / "passages.npy",
            kind="passage",
            key=f"{manifest.fingerprints['passages']} {passages!r}",
            description="passages, by the guide",
        ),
    )
