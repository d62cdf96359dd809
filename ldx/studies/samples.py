"""Test collections of a study: their folders, their content, and samples of them."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ldx.common.errors import UserError, listing
from ldx.common.files import fingerprint
from ldx.common.locks import locked
from ldx.common.sections import build
from ldx.eval.beir import (
    Corpus,
    Qrels,
    find_qrels,
    find_queries,
    qrels_files,
    read_corpus,
    read_qrels,
    read_queries,
    write_dataset,
)
from ldx.eval.passages import corpus_files
from ldx.studies.declare import Cell

DATA_DIR = "LDX_DATA_DIR"


@dataclasses.dataclass(frozen=True)
class Sample:
    """The section `config.study.sample`; configs/studies/common.py explains its keys."""

    num_passages: int | None
    num_queries: int | None
    from_split: str
    seed: int

    def __post_init__(self) -> None:
        for key in ("num_passages", "num_queries"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"config.study.sample.{key}={value!r}: wanted at least 1, or None")

    @property
    def keys_set(self) -> list[str]:
        """The keys that are not at their default."""
        values = dataclasses.asdict(self)
        return [key for key, value in values.items() if value not in (None, "", 0)]

    @property
    def is_whole(self) -> bool:
        """Whether the whole collection is taken; a seed alone samples nothing."""
        return set(self.keys_set) <= {"seed"}


def find_root(root: str, roots: Mapping[str, str]) -> str:
    """The absolute path of the folder that `config.data.root` stands for; "" for no root.

    Args:
      root: a name among `roots`, or a folder.
      roots: folders by name; one that is "" is looked for in the folder that LDX_DATA_DIR names.

    Raises:
      UserError: the folder of a name is not known, or does not exist.
    """
    if not root:
        return ""
    folder = roots.get(root, root)
    if not folder and os.environ.get(DATA_DIR):
        folder = str(Path(os.environ[DATA_DIR]) / root)
    if not folder:
        raise UserError(
            f"the collection {root}: where is it? Give --config.study.roots.{root}=FOLDER, or set "
            f"{DATA_DIR} to the folder that has {root} in it"
        )
    if not Path(folder).is_dir():
        key = f"config.study.roots.{root}" if root in roots else "config.data.root"
        raise UserError(f"{key}={folder}: no such folder; wanted a collection in BEIR layout")
    return str(Path(folder).absolute())


def collection_fingerprint(root: str | Path) -> str:
    """A digest of corpus, queries and judgments."""
    root = Path(root)
    paths = [*corpus_files(root), find_queries(root), *qrels_files(root).values()]
    stats = [(path, path.stat()) for path in paths]
    return _fingerprint_of(tuple((path, s.st_size, s.st_mtime_ns) for path, s in stats))


@functools.lru_cache
def _fingerprint_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """A digest of files by path, size and time; kept, because reading a corpus takes long."""
    parts: list[str | Path] = []
    for path, _, _ in files:
        parts += [path.name, path]
    return fingerprint(*parts)


def read_judgments(root: str | Path, split: str) -> Qrels:
    """The judgments of a split for the queries that exist; the corpus is not read."""
    queries = read_queries(root)
    return {q: grades for q, grades in read_qrels(find_qrels(root, split)).items() if q in queries}


def check_samples(cells: Sequence[Cell]) -> None:
    """Find keys of `study.sample` that have no effect, before anything is done.

    Cells without a data.root are not sampled, because data_prep makes their collection; where other
    cells of the study are sampled, this is only a warning.

    Raises:
      UserError: a value that cannot be, or keys that change no cell at all.
    """
    pairs = [(cell, build(Sample, cell.sample, "study.sample")) for cell in cells]
    used = {
        key
        for cell, sample in pairs
        if cell.config["data"]["root"] and not sample.is_whole
        for key in sample.keys_set
    }
    values = {key: getattr(sample, key) for _, sample in pairs for key in sample.keys_set}
    useless = [f"config.study.sample.{key}={values[key]!r}" for key in sorted(values.keys() - used)]
    if useless:
        raise UserError(
            f"these change nothing in this study:\n{listing(useless)}\n"
            "Sampled is a collection that data.root names, by num_passages, num_queries or "
            "from_split. Leave them out; prep.max_passages limits the passages of API docs"
        )
    whole = [cell for cell, sample in pairs if sample.keys_set and not cell.config["data"]["root"]]
    if whole:
        names = dict.fromkeys(cell.dataset or cell.config["prep"]["collection"] for cell in whole)
        logging.warning(
            "config.study.sample is ignored for %s: data_prep makes this collection",
            ", ".join(names),
        )


def sample_collection(root: str, split: str, sample: Mapping[str, Any], folder: Path) -> str:
    """The folder of a smaller collection in BEIR layout, made where it is missing.

    It holds every passage that is relevant to a random sample of the split's queries, and random
    others up to `num_passages`. Samples of one seed are nested: a larger one has the passages of a
    smaller one, and the same queries. Judgments of other splits stay where their passages do. A
    collection that data_prep makes is not sampled.

    Args:
      root: the folder of the whole collection; "" where data_prep makes it.
      split: the split whose queries are sampled.
      sample: num_passages, None for all; num_queries, None for all; seed; from_split, the split
        whose queries become those of `split`, and are taken out of it; "" for `split` itself.
      folder: where samples are kept.

    Returns:
      The folder of the sample, or `root` where none is asked for.

    Raises:
      UserError: the relevant passages alone are more than `num_passages`.
    """
    section = build(Sample, sample, "study.sample")
    if not root or section.is_whole:
        return root
    key = fingerprint(collection_fingerprint(root), split, repr(section))
    target = folder / f"{Path(root).name}-{section.num_passages or 'all'}-{key[:8]}"
    with locked(folder / f".{target.name}.lock", "another process makes this sample"):
        # Qrels, corpus and queries are moved into place in this order.
        if not (target / "queries.jsonl").is_file():
            logging.info("making %s, a sample of %s", target, root)
            _write_sample(Path(root), split, section, target)
    return str(target.absolute())


def _write_sample(root: Path, split: str, sample: Sample, target: Path) -> None:
    corpus = read_corpus(root)
    source = sample.from_split or split
    qrels = read_judgments(root, source)
    rng = np.random.default_rng([sample.seed, 0])
    ordered = sorted(qrels)
    shuffled = [ordered[i] for i in rng.permutation(len(ordered))]
    chosen = sorted(shuffled[: sample.num_queries])
    sampled = _passages(corpus, {query: qrels[query] for query in chosen}, sample, rng, root)
    rows = [row for row, doc_id in enumerate(corpus.doc_ids) if doc_id in sampled]
    fields = (corpus.doc_ids, corpus.titles, corpus.texts)
    smaller = Corpus(*([values[row] for row in rows] for values in fields))
    splits = {split: {query: qrels[query] for query in chosen}}
    for name in qrels_files(root):
        others = {q: grades for q, grades in read_judgments(root, name).items() if q not in chosen}
        splits.setdefault(name, others)
    judged = {name: _only(grades, sampled) for name, grades in splits.items()}
    texts = read_queries(root)
    query_ids = {query for grades in judged.values() for query in grades}
    queries = {query: text for query, text in texts.items() if query in query_ids}
    write_dataset(target, smaller, queries, {k: v for k, v in judged.items() if v})


def _passages(
    corpus: Corpus, qrels: Qrels, sample: Sample, rng: np.random.Generator, root: Path
) -> set[str]:
    """The ids of all relevant passages, and of random others up to `num_passages`."""
    if sample.num_passages is None:
        return set(corpus.doc_ids)
    relevant = {doc for grades in qrels.values() for doc, grade in grades.items() if grade > 0}
    chosen = relevant & set(corpus.doc_ids)
    if len(chosen) > sample.num_passages:
        raise UserError(
            f"config.study.sample: {len(chosen)} passages of {root} are relevant to {len(qrels)} "
            f"queries, more than num_passages={sample.num_passages}; lower num_queries"
        )
    for row in rng.permutation(len(corpus)):
        if len(chosen) == min(sample.num_passages, len(corpus)):
            break
        chosen.add(corpus.doc_ids[row])
    return chosen


def _only(qrels: Qrels, doc_ids: set[str]) -> Qrels:
    """The judgments of some passages, for queries that have a relevant one among them."""
    inside = {q: {d: g for d, g in grades.items() if d in doc_ids} for q, grades in qrels.items()}
    return {q: grades for q, grades in inside.items() if any(g > 0 for g in grades.values())}
