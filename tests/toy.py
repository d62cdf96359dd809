"""A small collection with records, for tests of whole commands."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldx.eval.beir import Corpus, Dataset, write_dataset
from ldx.records.manifest import Manifest
from ldx.records.schema import ListRecord, Passage
from ldx.records.sets import records_fingerprint, write_lists, write_passages

WORDS = """solve solver matrix linear banded system array sum mean cell protein blood drug trial
random sample sort index query wing lift drag flow air""".split()  # noqa: SIM905


SETTINGS = {
    "model.query_max_length": 16,
    "model.passage_max_length": 32,
    "data.batch_size": 8,
    "optim.learning_rate": 1e-3,
    "train.stop_on": None,
    "train.dev_pool": 38,
    # One shape of micro-batches, for every shape has programs that must be compiled.
    "train.microbatch_tokens": 192,
    "train.bucket_lengths": (32,),
}
"""What tests of whole runs set, unless they say otherwise."""


def write_config(path: Path, **sections: Mapping[str, object]) -> Path:
    """Write a config: that of configs/base.py with `SETTINGS` and the keys of these sections."""
    given = {
        f"{name}.{k}": value for name, section in sections.items() for k, value in section.items()
    }
    lines = [f"    config.{key} = {value!r}" for key, value in (SETTINGS | given).items()]
    head = "from configs import base\n\n\ndef get_config(arg=''):\n    config = base.get_config()\n"
    path.write_text(head + "\n".join(lines) + "\n    return config\n")
    return path


def make_run(folder: Path, model: Path, **train: object) -> Path:
    """The config of a run on the toy collection and its records; `train` goes to that section."""
    return write_config(
        folder / "config.py",
        model={"path": str(model)},
        data={
            "root": str(make_collection(folder / "collection")),
            "records": str(make_records(folder / "records")),
        },
        train=train,
        checkpoint={"every_minutes": 0.0},
    )


def make_texts(rng: np.random.Generator, num_texts: int, num_words: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, size=num_words)) for _ in range(num_texts)]


def make_collection(root: Path, num_passages: int = 40, num_queries: int = 10) -> Path:
    """A BEIR folder with a test split: query i asks for three words of passage i."""
    rng = np.random.default_rng(0)
    texts = make_texts(rng, num_passages, 12)
    ids = [f"d{i}" for i in range(num_passages)]
    queries = {f"q{i}": " ".join(texts[i].split()[:3]) for i in range(num_queries)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(num_queries)}
    write_dataset(root, Corpus(ids, [""] * num_passages, texts), queries, {"test": qrels})
    return root


def make_list(rng: np.random.Generator, i: int, texts: list[str], list_size: int) -> ListRecord:
    own = i % len(texts)
    others = rng.permutation([row for row in range(len(texts)) if row != own])[: list_size - 1]
    scores = np.concatenate([[1.0], -np.sort(-rng.uniform(0, 0.9, size=list_size - 1))])
    return ListRecord(
        list_id=f"list-{i}",
        query_id=f"g{i}",
        query=" ".join(texts[own].split()[3:6]),
        query_type="sentence",
        source="toy",
        source_row=own,
        rows=np.array([own, *others]),
        labels=np.full(list_size, -1, np.int32),
        teacher_scores=scores.astype(np.float32),
        raw_scores=np.zeros(0, np.float32),
        order_key=own,
    )


def make_records(folder: Path, *, num_passages: int = 40, num_train: int = 48) -> Path:
    """Records of lists about the passages of `make_collection`."""
    rng = np.random.default_rng(0)
    texts = make_texts(rng, num_passages, 12)
    lists = [make_list(rng, i, texts, 3 + i % 3) for i in range(num_train + 12)]
    write_passages(folder, (Passage(f"d{i}", "", text) for i, text in enumerate(texts)))
    counts = write_lists(folder, {"train": lists[:num_train], "dev": lists[num_train:]})
    write_manifest(folder, "toy", num_passages, counts)
    return folder


def write_manifest(
    folder: Path, collection: str, num_passages: int, num_lists: dict, template: str = "{text}"
) -> None:
    """The manifest of records that no teacher scored."""
    Manifest(
        collection=collection,
        num_passages=num_passages,
        num_lists=num_lists,
        fingerprints={s: records_fingerprint(folder, s) for s in ("passages", "lists")},
        passage_template=template,
        max_chars=2048,
        teachers=[],
        seed=0,
    ).write(folder)


def make_dataset(queries: dict[str, str] | None = None) -> Dataset:
    """Four passages in memory; the second is the relevant one of every query."""
    corpus = Corpus(
        ["a", "b", "c", "d"],
        ["", "Drag", "", ""],
        ["lift of a wing", "of a body", "flow of  air", "nothing"],
    )
    queries = queries or {"q1": "lift", "q2": "drag"}
    qrels = {query_id: {"b": 1} for query_id in queries}
    return Dataset(Path("toy"), "test", corpus, queries, qrels)
