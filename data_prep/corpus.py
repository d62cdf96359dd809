"""Stage 1: the collection, its passage set, and the passages that are held out.

Leaves RECORDS/passages and WORKDIR/prep/held_out.json; `api_docs` collections are made first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep import api_docs
from data_prep.choice import draw
from data_prep.stage import Stage, Workspace, file_fingerprints, needed, run_as_command
from ldx.data.records import PassageSource, records_fingerprint, write_passages
from ldx.data.schema import Passage, passage_text
from ldx.data.tfds_layout import record_files
from ldx.errors import UserError
from ldx.eval import beir
from ldx.files import fingerprint, read_json, write_json

MAX_HELD_OUT_FRACTION = 0.05


def load_passage_texts(workspace: Workspace) -> tuple[list[str], list[str]]:
    """The doc_ids and texts of the passage set, titles joined and cut as configured."""
    data = workspace.config.data
    source = PassageSource(workspace.records)
    passages = [source[row] for row in range(len(source))]
    texts = [passage_text(p.title, p.text, data.passage_template, data.max_chars) for p in passages]
    return [p.doc_id for p in passages], texts


def load_held_out(workspace: Workspace) -> list[int]:
    """The rows that get no queries and enter no list."""
    return read_json(workspace.prep / "held_out.json")["rows"]


def passages_inputs(workspace: Workspace) -> dict[str, str]:
    """What later stages depend on: the passage set and the held-out rows."""
    held_out = needed(workspace.prep / "held_out.json", "corpus")
    return {
        "passages": records_fingerprint(workspace.records, "passages"),
        "held_out": fingerprint(held_out),
    }


def choose_held_out(doc_ids: list[str], num_held_out: int, seed: int) -> list[int]:
    """Rows held out: those of the smallest draws, at most 5% of all."""
    num = min(num_held_out, int(MAX_HELD_OUT_FRACTION * len(doc_ids)))
    order = sorted(range(len(doc_ids)), key=lambda row: draw(seed, "held out", doc_ids[row]))
    return sorted(order[:num])


def qrels_files(root: Path) -> dict[str, Path]:
    """The judgments of a collection by split."""
    paths = sorted((root / "qrels").glob("*.tsv*"))
    return {path.name.removesuffix(".gz").removesuffix(".tsv"): path for path in paths}


def _collection_files(root: Path) -> dict[str, Path]:
    paths = {p.name: p for name in ("corpus", "queries") for p in root.glob(f"{name}.jsonl*")}
    return paths | qrels_files(root)


def _inputs(workspace: Workspace) -> Mapping[str, Any]:
    prep = workspace.config.prep
    if prep.collection == "api_docs":
        if workspace.config.data.root:
            raise UserError(
                f"config.data.root={workspace.config.data.root!r}, but prep.collection=api_docs "
                "makes a collection of its own in WORKDIR/dataset; leave data.root empty, or set "
                "--config.prep.collection=beir"
            )
        return api_docs.package_versions(prep.packages)
    if prep.collection != "beir":
        raise UserError(f"prep.collection is {prep.collection!r}; known are 'beir' and 'api_docs'")
    if not workspace.config.data.root:
        raise UserError("data.root is empty; set --config.data.root to a folder in BEIR layout")
    return file_fingerprints(_collection_files(workspace.dataset))


def _outputs(workspace: Workspace) -> list[Path]:
    paths = [workspace.prep / "held_out.json"]
    if workspace.config.prep.collection == "api_docs":
        root = workspace.dataset
        paths += [root / "corpus.jsonl", root / "queries.jsonl", root / "qrels" / "test.tsv"]
    if (workspace.records / "passages").is_dir():
        return paths + record_files(workspace.records, "passages")
    return [*paths, workspace.records / "passages" / "missing"]


def _make_api_docs(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config
    docs = api_docs.collect(config.prep.packages, config.prep.max_passages, config.seed)
    corpus = beir.Corpus(
        [doc.name for doc in docs.docstrings],
        [""] * len(docs.docstrings),
        [doc.body for doc in docs.docstrings],
    )
    queries, qrels = docs.queries()
    beir.write_dataset(workspace.dataset, corpus, queries, {"test": qrels})
    return {"dropped": dict(docs.dropped)}


def _work(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config
    counts = _make_api_docs(workspace) if config.prep.collection == "api_docs" else {}
    corpus = beir.read_corpus(workspace.dataset)
    # The other files are checked now: a broken one must not be found after hours of mining.
    has_queries = any(workspace.dataset.glob("queries.jsonl*")) or config.prep.queries == "human"
    queries = beir.read_queries(workspace.dataset) if has_queries else {}
    for path in qrels_files(workspace.dataset).values():
        beir.read_qrels(path)
    triples = zip(corpus.doc_ids, corpus.titles, corpus.texts, strict=True)
    num_passages = write_passages(workspace.records, (Passage(*triple) for triple in triples))
    held_out = choose_held_out(corpus.doc_ids, config.prep.num_held_out, config.seed)
    write_json(workspace.prep / "held_out.json", {"rows": held_out})
    return {"passages": num_passages, "queries": len(queries), "held out": len(held_out), **counts}


STAGE = Stage(
    name="corpus",
    keys=(
        "seed",
        "data.root",
        "data.records",
        "prep.collection",
        "prep.packages",
        "prep.max_passages",
        "prep.num_held_out",
        "prep.queries",
    ),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
