"""Stage 7: what BM25 and the hybrid teacher find for the test queries, to compare with.

Leaves WORKDIR/baselines/{bm25,teacher}.trec where the collection judges config.eval.split, and the
retrievers are those of a hybrid. Passages are searched as they are evaluated: all, and not cut.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.bm25 import Bm25
from data_prep.candidates import top_rows
from data_prep.corpus import judged_queries, qrels_files
from data_prep.dense import DenseModel, model_fingerprint
from data_prep.hybrid import hybrid_scores
from data_prep.hybrid_teacher import hybrid_columns
from data_prep.passages import load_passages, passages_inputs
from data_prep.retrievers import retriever_sections
from data_prep.score import INDEX_NAME as SCORES_NAME
from data_prep.score import load_weight
from data_prep.settings import HYBRID
from data_prep.stage import (
    Stage,
    Workspace,
    file_fingerprints,
    needed,
    run_as_command,
    stage_counts,
)
from ldx.data.records import PassageSource, PassageTexts
from ldx.eval.metrics import Run, write_run
from ldx.progress import progress_bar

DEPTH = 100
MAX_QUERIES_AT_ONCE = 16
SCORES_AT_ONCE = 2**24  # queries times passages


def _z(scores: np.ndarray) -> np.ndarray:
    """z-scores of each query's scores of all passages, [Q, N]; 0 where none varies."""
    deviation = scores.std(axis=1, keepdims=True)
    varies = deviation > 1e-6
    z = (scores - scores.mean(axis=1, keepdims=True)) / np.where(varies, deviation, 1.0)
    return np.where(varies, z, 0.0)


def find_runs(
    queries: Mapping[str, str],
    passages: PassageSource,
    bm25: Bm25,
    query_embeddings: np.ndarray,
    passage_embeddings: np.ndarray,
    weight: float,
) -> dict[str, Run]:
    """The first DEPTH passages of BM25 and of the hybrid for each query, in bounded memory."""
    runs: dict[str, Run] = {"bm25": {}, "teacher": {}}
    query_ids, texts = list(queries), list(queries.values())
    rows = np.arange(len(passages))
    at_once = max(1, min(MAX_QUERIES_AT_ONCE, SCORES_AT_ONCE // len(passages)))
    with progress_bar(total=len(texts), desc="baselines", unit=" queries") as bar:
        for start in range(0, len(texts), at_once):
            stop = min(start + at_once, len(texts))
            lexical = np.zeros((stop - start, len(passages)), np.float32)
            for i, matches in enumerate(bm25.match_all(texts[start:stop])):
                lexical[i, matches.rows] = matches.scores
            dense = query_embeddings[start:stop] @ passage_embeddings.T
            hybrid = hybrid_scores(_z(lexical), _z(dense), weight)
            for name, scores in (("bm25", lexical), ("teacher", hybrid)):
                for query_id, values in zip(query_ids[start:stop], scores, strict=True):
                    best = top_rows(rows, values, DEPTH).tolist()
                    runs[name][query_id] = {passages[i].doc_id: float(values[i]) for i in best}
            bar.update(stop - start)
    return runs


def _work(workspace: Workspace) -> dict[str, Any]:
    config, split = workspace.config, workspace.config.eval.split
    hybrid = _hybrid(workspace)
    queries = judged_queries(workspace.dataset, split)
    if hybrid is None or not queries:
        for path in _run_files(workspace):
            path.unlink(missing_ok=True)
        return {"test queries": 0}
    name, section = hybrid
    passages, key = PassageSource(workspace.corpus_records), load_passages(workspace).key
    texts = PassageTexts(passages, template=config.data.passage_template)
    what, folder = "passages", "bm25"
    if stage_counts(workspace, ("corpus",))["corpus"]["cut"]:  # those mined are not those evaluated
        what, folder, key = "evaluated passages", "bm25_evaluated", f"{key} not cut"
    sections = retriever_sections(config.prep.retrievers.to_dict(), config.model.to_dict())
    dense = list(sections)[hybrid_columns(config, name, section)[1]]
    model = DenseModel(dense, sections[dense][1], config.train.microbatch_tokens)
    runs = find_runs(
        queries,
        passages,
        Bm25.open_or_build(workspace.prep / folder, texts, key=key, description=what),
        model.embed(list(queries.values()), "query"),
        model.embed_to_file(workspace.prep, what, texts, "passage", key),
        load_weight(workspace) or 0.0,
    )
    for path in _run_files(workspace):
        write_run(path, runs[path.stem], tag=path.stem)
    return {"test queries": len(queries)}


def _hybrid(workspace: Workspace) -> tuple[str, dict[str, Any]] | None:
    teachers = workspace.config.prep.teachers.to_dict()
    found = [(name, section) for name, section in teachers.items() if section["kind"] == HYBRID]
    return found[0] if found else None


def _run_files(workspace: Workspace) -> list[Path]:
    return [workspace.baselines / f"{name}.trec" for name in ("bm25", "teacher")]


def _inputs(workspace: Workspace) -> dict[str, str]:
    root = workspace.dataset
    paths = {p.name: p for kind in ("corpus", "queries") for p in root.glob(f"{kind}.jsonl*")}
    paths |= qrels_files(root)
    paths["scores"] = needed(workspace.prep / SCORES_NAME, "score")
    model = {"model": model_fingerprint(workspace.config.model)}
    return passages_inputs(workspace) | file_fingerprints(paths) | model


def _outputs(workspace: Workspace) -> list[Path]:
    is_judged = bool(judged_queries(workspace.dataset, workspace.config.eval.split))
    return _run_files(workspace) if is_judged and _hybrid(workspace) else []


STAGE = Stage(
    name="baselines",
    keys=("data.root", "data.passage_template", "data.max_chars", "eval.split", "prep.teachers"),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
