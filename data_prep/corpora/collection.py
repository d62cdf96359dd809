"""The collection that `config.data.root` or `config.prep.collection` names, and its judgments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.corpora import api_docs
from data_prep.corpora.readers import source_fingerprint
from data_prep.pipeline.workspace import Workspace, file_fingerprints
from ldx.common.errors import UserError
from ldx.eval import beir

API_DOCS, BEIR = "api_docs", "beir"


def judged_queries(root: Path, split: str) -> dict[str, str]:
    """The texts of the queries that a split judges, by id; none where it has no qrels."""
    if split not in qrels_files(root):
        return {}
    judged = beir.read_qrels(beir.find_qrels(root, split))
    return {q: text for q, text in beir.read_queries(root).items() if q in judged}


def qrels_files(root: Path) -> dict[str, Path]:
    """The judgments of a collection by split."""
    paths = sorted((root / "qrels").glob("*.tsv*"))
    return {path.name.removesuffix(".gz").removesuffix(".tsv"): path for path in paths}


def _collection_files(root: Path) -> dict[str, Path]:
    paths = {p.name: p for name in ("corpus", "queries") for p in root.glob(f"{name}.jsonl*")}
    return paths | qrels_files(root)


def collection_inputs(workspace: Workspace) -> Mapping[str, Any]:
    """Fingerprints of what the corpus stage reads.

    Raises:
      UserError: the config names no collection, or names it in the wrong place.
    """
    prep, root = workspace.settings, workspace.config.data.root
    if prep.collection == BEIR:
        if not root:
            raise UserError("data.root is empty; set --config.data.root to a folder in BEIR layout")
        files = _collection_files(workspace.dataset)
        if not any(name.startswith("corpus") for name in files):
            raise UserError(
                f"config.data.root={root!r} is no folder in BEIR layout: it has no corpus.jsonl or "
                "corpus.jsonl.gz. Another kind of corpus is named by --config.prep.collection, "
                "with data.root empty"
            )
        return file_fingerprints(files)
    if root:
        raise UserError(
            f"config.data.root={root!r}, but prep.collection={prep.collection} makes a collection "
            "of its own in WORKDIR/dataset; leave data.root empty, or set "
            "--config.prep.collection=beir"
        )
    if prep.collection == API_DOCS:
        return api_docs.package_versions(prep.packages)
    if any(Path(prep.collection).glob("corpus.jsonl*")):
        raise UserError(
            f"config.prep.collection={prep.collection!r} is a folder in BEIR layout; set "
            f"--config.data.root={prep.collection} and leave prep.collection at beir"
        )
    return {"collection": source_fingerprint(prep.collection)}
