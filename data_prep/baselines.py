"""Stage 6: what BM25 and the hybrid teacher find for the test queries, to compare with.

Leaves WORKDIR/baselines/{bm25,teacher}.trec where the collection judges config.eval.split.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.bm25 import Bm25
from data_prep.candidates import moments, score_corpus, top_rows
from data_prep.corpus import load_passage_texts, passages_inputs, qrels_files
from data_prep.dense import EmbeddingStore, model_fingerprint
from data_prep.hybrid import hybrid_scores
from data_prep.score import load_weight
from data_prep.stage import Stage, Workspace, file_fingerprints, needed, run_as_command
from ldx.data.schema import passage_text
from ldx.eval import beir
from ldx.eval.metrics import Run, write_run

DEPTH = 100


def _runs(
    query_texts: dict[str, str],
    doc_ids: list[str],
    bm25: Bm25,
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    weight: float,
) -> dict[str, Run]:
    """The first DEPTH passages of both retrievers for each query."""
    runs: dict[str, Run] = {"bm25": {}, "teacher": {}}
    query_ids = list(query_texts)
    texts = list(query_texts.values())
    chunks = score_corpus(texts, bm25, query_embeddings, passage_embeddings, "baselines")
    for start, lexical, dense in chunks:
        hybrid = hybrid_scores(lexical, dense, moments(lexical, dense), weight)
        for name, scores in (("bm25", lexical), ("teacher", hybrid)):
            for i, row_scores in enumerate(scores):
                best = top_rows(row_scores, DEPTH)
                found = {doc_ids[row]: float(row_scores[row]) for row in best}
                runs[name][query_ids[start + i]] = found
    return runs


def _passage_embeddings(store: EmbeddingStore, texts: list[str], mined: list[str]) -> np.ndarray:
    """Embeddings of the texts as they are evaluated, not cut; mining's where it did not cut."""
    embeddings = np.array(store.get("passages", mined, "passage"))
    pairs = enumerate(zip(texts, mined, strict=True))
    others = [row for row, (text, cut) in pairs if text != cut]
    if others:
        other_texts = [texts[row] for row in others]
        embeddings[others] = store.get("passages that mining cut", other_texts, "passage")
    return embeddings


def _work(workspace: Workspace) -> dict[str, Any]:
    split = workspace.config.eval.split
    if split not in qrels_files(workspace.dataset):
        for path in _run_files(workspace):
            path.unlink(missing_ok=True)
        return {"test queries": 0}
    dataset = beir.load_dataset(workspace.dataset, split)
    corpus = dataset.corpus
    pairs = zip(corpus.titles, corpus.texts, strict=True)
    texts = [
        passage_text(title, text, workspace.config.data.passage_template) for title, text in pairs
    ]
    store = EmbeddingStore(workspace.prep / "embeddings", workspace.config)
    passage_embeddings = _passage_embeddings(store, texts, load_passage_texts(workspace)[1])
    queries = dict(dataset.queries)
    query_embeddings = store.get("test queries", list(queries.values()), "query")
    weight = load_weight(workspace)
    runs = _runs(queries, corpus.doc_ids, Bm25(texts), query_embeddings, passage_embeddings, weight)
    for path in _run_files(workspace):
        write_run(path, runs[path.stem], tag=path.stem)
    return {"test queries": len(queries)}


def _run_files(workspace: Workspace) -> list[Path]:
    return [workspace.baselines / f"{name}.trec" for name in ("bm25", "teacher")]


def _inputs(workspace: Workspace) -> dict[str, str]:
    passages = passages_inputs(workspace)
    root = workspace.dataset
    paths = {path.name: path for path in root.glob("queries.jsonl*")} | qrels_files(root)
    paths["scores"] = needed(workspace.prep / "scores.npz", "score")
    model = {"model": model_fingerprint(workspace.config.model)}
    return passages | file_fingerprints(paths) | model


def _outputs(workspace: Workspace) -> list[Path]:
    is_judged = workspace.config.eval.split in qrels_files(workspace.dataset)
    return _run_files(workspace) if is_judged else []


STAGE = Stage(
    name="baselines",
    keys=("data.root", "data.passage_template", "data.max_chars", "eval.split"),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
