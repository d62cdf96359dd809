"""Stage 7: what BM25 and the teacher find for the test queries, to compare with.

Leaves WORKDIR/baselines/{bm25,teacher}.trec where the collection judges config.eval.split: BM25's
if it is a retriever, the teacher's if the lists are taught by hybrids alone, which can score every
passage. Passages are searched as they are evaluated: all, and not cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data_prep.corpora.collection import judged_queries, qrels_files
from data_prep.corpora.passages import load_passages, passages_inputs
from data_prep.lists.calibration import METHODS, Rank
from data_prep.lists.results import TAUGHT_FILES
from data_prep.pipeline.settings import HYBRID, PrepConfig
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed, stage_counts
from data_prep.retrieval.bm25 import Bm25
from data_prep.retrieval.dense import DenseModel, model_fingerprint
from data_prep.retrieval.fusion import top_rows
from data_prep.retrieval.retrievers import retriever_sections
from data_prep.teachers.hybrid import hybrid_columns
from data_prep.teachers.hybrid_weight import hybrid_scores
from data_prep.teachers.scores import SCORES_NAME, dense_weights
from ldx.common.progress import progress_bar
from ldx.eval.metrics import DEPTH, Run, write_run
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import PassageSet, PassageTexts

BM25, TEACHER = NAMES = ("bm25", "teacher")
MAX_QUERIES_AT_ONCE = 16
SCORES_AT_ONCE = 2**24  # queries times passages


@dataclass(frozen=True)
class Hybrid:
    """A hybrid among the teachers.

    Attributes:
      dense: the dense retriever that it joins with BM25.
      dense_weight: that one's weight.
      share: what a point of the hybrid's score adds to the score of all teachers.
    """

    dense: str
    dense_weight: float
    share: float


def _z(scores: np.ndarray) -> np.ndarray:
    """z-scores of each query's scores of all passages, [Q, N]; 0 where none varies."""
    deviation = scores.std(axis=1, keepdims=True)
    varies = deviation > 1e-6
    z = (scores - scores.mean(axis=1, keepdims=True)) / np.where(varies, deviation, 1.0)
    return np.where(varies, z, 0.0)


def find_runs(
    queries: Mapping[str, str],
    passages: PassageSet,
    bm25: Bm25,
    embeddings: Mapping[str, tuple[np.ndarray, np.ndarray]],
    hybrids: Sequence[Hybrid],
) -> dict[str, Run]:
    """The first DEPTH passages of BM25 and of the teacher for each query, in bounded memory.

    Args:
      queries: texts by query_id.
      passages: those searched.
      bm25: their index.
      embeddings: of `queries` [Q, D] and `passages` [N, D], by dense retriever.
      hybrids: whose scores add up to the teacher's, by their shares; none: no run of the teacher.
    """
    runs: dict[str, Run] = {name: {} for name in (NAMES if hybrids else (BM25,))}
    query_ids, texts = list(queries), list(queries.values())
    rows = np.arange(len(passages))
    at_once = max(1, min(MAX_QUERIES_AT_ONCE, SCORES_AT_ONCE // len(passages)))
    with progress_bar(total=len(texts), desc="baselines", unit=" queries") as bar:
        for start in range(0, len(texts), at_once):
            stop = min(start + at_once, len(texts))
            lexical = np.zeros((stop - start, len(passages)), np.float32)
            for i, matches in enumerate(bm25.match_all(texts[start:stop])):
                lexical[i, matches.rows] = matches.scores
            found = {BM25: lexical}
            if hybrids:
                dense = {k: _z(q[start:stop] @ p.T) for k, (q, p) in embeddings.items()}
                found[TEACHER] = _teacher_scores(_z(lexical), dense, hybrids)
            for name, scores in found.items():
                for query_id, values in zip(query_ids[start:stop], scores, strict=True):
                    best = top_rows(rows, values, DEPTH).tolist()
                    runs[name][query_id] = {passages[i].doc_id: float(values[i]) for i in best}
            bar.update(stop - start)
    return runs


def _teacher_scores(
    z_bm25: np.ndarray, z_dense: Mapping[str, np.ndarray], hybrids: Sequence[Hybrid]
) -> np.ndarray:
    """The hybrids' scores [Q, N], added up by their shares."""
    first, *others = (
        each.share * hybrid_scores(z_bm25, z_dense[each.dense], each.dense_weight)
        for each in hybrids
    )
    return sum(others, start=first)


def _work(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config
    wanted = _outputs(workspace)
    for path in {workspace.baselines / f"{name}.trec" for name in NAMES}.difference(wanted):
        path.unlink(missing_ok=True)
    if not wanted:
        return {"test queries": 0}
    if reason := _no_teacher(workspace.settings):
        logging.info("baselines: no run of the teacher: %s", reason)
    hybrids = [] if reason else _hybrids(workspace)
    queries = judged_queries(workspace.dataset, config.eval.split)
    passages, key = PassageSet(workspace.corpus_records), load_passages(workspace).key
    texts = PassageTexts(passages, template=config.data.passage_template)
    what, folder = "passages", "bm25"
    if stage_counts(workspace, ("corpus",))["corpus"]["cut"]:  # those mined are not those evaluated
        what, folder, key = "evaluated passages", "bm25_evaluated", f"{key} not cut"
    sections = retriever_sections(workspace.settings.retrievers, config.model.to_dict())
    embeddings = {}
    for dense in dict.fromkeys(hybrid.dense for hybrid in hybrids):
        model = DenseModel(dense, sections[dense][1], config.train.microbatch_tokens)
        embeddings[dense] = (
            model.embed(list(queries.values()), "query"),
            model.embed_to_file(workspace.prep, what, texts, "passage", key),
        )
    bm25 = Bm25.open_or_build(workspace.prep / folder, texts, key=key, description=what)
    runs = find_runs(queries, passages, bm25, embeddings, hybrids)
    for path in wanted:
        write_run(path, runs[path.stem], tag=path.stem)
    return {"test queries": len(queries)}


def _no_teacher(settings: PrepConfig) -> str:
    """Why what teaches the lists cannot rank a whole corpus; "" where it can."""
    teachers = settings.teachers
    others = [name for name, section in teachers.items() if section["kind"] != HYBRID]
    if others:
        return f"{', '.join(others)} of config.prep.teachers would have to score all passages"
    if len(teachers) > 1 and METHODS[settings.calibration] is Rank:
        return "the teachers are fused by ranks among candidates, which other passages have not"
    return ""


def _hybrids(workspace: Workspace) -> list[Hybrid]:
    """The teachers, all of them hybrids, with their shares in the fused score."""
    weights, teachers = dense_weights(workspace), workspace.settings.teachers
    retrievers = workspace.settings.retrievers
    shares = _shares(workspace) if len(teachers) > 1 else dict.fromkeys(teachers, 1.0)
    hybrids = []
    for name, section in teachers.items():
        _, dense = hybrid_columns(retrievers, name, section)
        hybrids.append(Hybrid(list(retrievers)[dense], weights[name], shares[name]))
    return hybrids


def _shares(workspace: Workspace) -> dict[str, float]:
    """The share of each teacher's raw score in the fused one, as `calibrate` fuses them.

    A teacher's weight times the slope of its calibration. That was fitted to each query type, and
    a test query has none, so the slope is the mean over types. Nothing is clipped here, as a single
    hybrid's scores are not: what lies above the 99th percentile keeps its order.
    """
    result = TAUGHT_FILES.read_result(workspace)
    method = METHODS[workspace.settings.calibration]
    scales = [
        result["calibration"]["scales"][name] for name in result["types"] if name != HUMAN_DEV
    ]
    teachers = workspace.settings.teachers
    total = sum(section.get("weight", 1.0) for section in teachers.values())
    return {
        name: section.get("weight", 1.0)
        / total
        * float(np.mean([method(**each[name]).slope for each in scales]))
        for name, section in teachers.items()
    }


def _inputs(workspace: Workspace) -> dict[str, str]:
    root = workspace.dataset
    paths = {p.name: p for kind in ("corpus", "queries") for p in root.glob(f"{kind}.jsonl*")}
    paths |= qrels_files(root)
    paths["scores"] = needed(workspace.prep / SCORES_NAME, "score")
    if len(workspace.settings.teachers) > 1:
        paths["calibration"] = TAUGHT_FILES.result_path(workspace)
    model = {"model": model_fingerprint(workspace.config.model)}
    return passages_inputs(workspace) | file_fingerprints(paths) | model


def _outputs(workspace: Workspace) -> list[Path]:
    config = workspace.config
    if not judged_queries(workspace.dataset, config.eval.split):
        return []
    retrievers = workspace.settings.retrievers.values()
    has_bm25 = any(section["kind"] == BM25 for section in retrievers)
    names = [*([BM25] if has_bm25 else []), *([] if _no_teacher(workspace.settings) else [TEACHER])]
    return [workspace.baselines / f"{name}.trec" for name in names]


STAGE = Stage(
    name="baselines",
    keys=("data.root", "data.passage_template", "data.max_chars", "eval.split", "prep.teachers"),
    inputs=_inputs,
    outputs=_outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
