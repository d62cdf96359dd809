"""The files of the collection that `config.data.root` or `config.prep.collection` names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.corpora import api_docs
from data_prep.pipeline.workspace import Workspace, file_fingerprints
from ldx.common.errors import UserError
from ldx.eval import beir
from ldx.eval.passages import corpus_files, location_fingerprint

API_DOCS, BEIR = "api_docs", "beir"


def judged_queries(root: Path, split: str) -> dict[str, str]:
    """The texts of the queries that a split judges, by id; {} where there are no such qrels."""
    if split not in beir.qrels_files(root):
        return {}
    judged = beir.read_qrels(beir.find_qrels(root, split))
    return {q: text for q, text in beir.read_queries(root).items() if q in judged}


def collection_files(root: Path) -> dict[str, Path]:
    """The files of a collection by name: those of its corpus, queries and judgments."""
    corpus = list(root.glob("corpus.jsonl*")) or corpus_files(root)
    files = {path.name: path for path in (*corpus, *root.glob("queries.jsonl*"))}
    return files | beir.qrels_files(root)


def collection_inputs(workspace: Workspace) -> Mapping[str, Any]:
    """Fingerprints of the files and packages that the corpus stage reads.

    Raises:
      UserError: the config names no collection, or names it under the wrong key.
    """
    prep, root = workspace.settings, workspace.config.data.root
    if prep.collection == BEIR:
        if not root:
            raise UserError("data.root is empty; set --config.data.root to a folder in BEIR layout")
        try:
            corpus_files(workspace.dataset)
        except UserError as error:
            raise UserError(
                f"config.data.root={root!r} is no folder in BEIR layout: {error}. Another kind of "
                "corpus is named by --config.prep.collection, with data.root empty"
            ) from None
        return file_fingerprints(collection_files(workspace.dataset))
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
    return {"collection": location_fingerprint(prep.collection)}
