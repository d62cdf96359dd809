"""Stage 7: runs of BM25 and of the teacher for the test queries, to compare a student with.

Leaves WORKDIR/baselines/{bm25,teacher}.trec where the collection judges config.eval.split: BM25's
if it is a retriever, the teacher's if all teachers are hybrids, which can score every passage.
Passages are searched as they are evaluated: all of them, and not cut.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from data_prep.corpora.collection import collection_files, judged_queries
from data_prep.corpora.passages import load_passages, passages_inputs
from data_prep.lists.calibration import METHODS, Rank
from data_prep.lists.results import TAUGHT_FILES
from data_prep.lists.taught import teacher_shares
from data_prep.pipeline.settings import HYBRID, PrepConfig
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed, stage_counts
from data_prep.retrieval.analyzer import Analyzer
from data_prep.retrieval.bm25 import Bm25
from data_prep.retrieval.dense import model_fingerprint
from data_prep.retrieval.retrievers import RetrieverKind, dense_model
from data_prep.teachers.corpus_runs import Baseline, DenseEmbeddings, Hybrid, find_runs
from data_prep.teachers.hybrid import hybrid_columns
from data_prep.teachers.scores import SCORES_NAME, dense_weights
from ldx.eval.metrics import Run, write_run
from ldx.records.sets import PassageSet, PassageTexts


def _work(workspace: Workspace) -> dict[str, Any]:
    baselines = _baselines(workspace)
    for name in set(Baseline) - set(baselines):
        _path(workspace, name).unlink(missing_ok=True)
    if not baselines:
        return {"test queries": 0}
    if reason := _no_teacher(workspace.settings):
        logging.info("baselines: no run of the teacher: %s", reason)
    queries = judged_queries(workspace.dataset, workspace.config.eval.split)
    runs = _find_runs(workspace, queries, [] if reason else _hybrids(workspace))
    for name in baselines:
        write_run(_path(workspace, name), runs[name], tag=name.value)
    return {"test queries": len(queries)}


def _find_runs(
    workspace: Workspace, queries: Mapping[str, str], hybrids: list[Hybrid]
) -> dict[Baseline, Run]:
    """The runs of BM25 and of the hybrids; indexes and embeddings are made if missing."""
    passages, key = PassageSet(workspace.corpus_records), load_passages(workspace).key
    texts = PassageTexts(passages, template=workspace.config.data.passage_template)
    what, folder = "passages", "bm25"
    if stage_counts(workspace, ("corpus",))["corpus"]["cut"]:  # evaluated texts are whole
        what, folder, key = "evaluated passages", "bm25_evaluated", f"{key} not cut"
    embeddings = {}
    for name in dict.fromkeys(hybrid.dense for hybrid in hybrids):
        model = dense_model(workspace, name)
        embeddings[name] = DenseEmbeddings(
            queries=model.embed(list(queries.values()), "query"),
            passages=model.embed_to_file(workspace.prep, what, texts, "passage", key),
        )
    bm25 = Bm25.open_or_build(
        workspace.prep / folder,
        texts,
        key=key,
        language=workspace.settings.language,
        description=what,
    )
    return find_runs(queries, passages, bm25, embeddings, hybrids)


def _hybrids(workspace: Workspace) -> list[Hybrid]:
    """The teachers, which must all be hybrids, with their shares in the fused score."""
    retrievers, teachers = workspace.settings.retrievers, workspace.settings.teachers
    weights, shares = dense_weights(workspace), teacher_shares(workspace)
    hybrids = []
    for name, section in teachers.items():
        dense = list(retrievers)[hybrid_columns(retrievers, name, section).dense]
        hybrids.append(Hybrid(dense, weights[name], shares[name]))
    return hybrids


def _no_teacher(settings: PrepConfig) -> str:
    """The reason why the teachers cannot rank a whole corpus; "" where they can."""
    teachers = settings.teachers
    others = [name for name, section in teachers.items() if section["kind"] != HYBRID]
    if others:
        return f"{', '.join(others)} of config.prep.teachers would have to score all passages"
    if len(teachers) > 1 and METHODS[settings.calibration] is Rank:
        return "the teachers are fused by ranks among candidates, and other passages have none"
    return ""


def _baselines(workspace: Workspace) -> list[Baseline]:
    """The baselines that this stage makes."""
    if not judged_queries(workspace.dataset, workspace.config.eval.split):
        return []
    settings = workspace.settings
    kinds = {section["kind"] for section in settings.retrievers.values()}
    baselines = [Baseline.BM25] if RetrieverKind.BM25 in kinds else []
    return baselines if _no_teacher(settings) else [*baselines, Baseline.TEACHER]


def _path(workspace: Workspace, name: Baseline) -> Path:
    return workspace.baselines / f"{name}.trec"


def _inputs(workspace: Workspace) -> dict[str, str]:
    paths = collection_files(workspace.dataset)
    paths["scores"] = needed(workspace.prep / SCORES_NAME, "score")
    if len(workspace.settings.teachers) > 1:
        paths["calibration"] = TAUGHT_FILES.result_path(workspace)
    model = {"model": model_fingerprint(workspace.config.model)}
    terms = {"terms": Analyzer(workspace.settings.language).key}
    return passages_inputs(workspace) | file_fingerprints(paths) | model | terms


STAGE = Stage(
    name="baselines",
    keys=("data.root", "data.passage_template", "data.max_chars", "eval.split", "prep.teachers"),
    inputs=_inputs,
    outputs=lambda workspace: [_path(workspace, name) for name in _baselines(workspace)],
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
