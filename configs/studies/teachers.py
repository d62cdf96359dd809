"""Is the teacher the bottleneck? BM25 alone, dense alone, their hybrid, and fused teachers.

    python -m ldx.study --config=configs/studies/teachers.py:cpu --workdir=DIR \
        --config.study.roots.scifact=SCIFACT

"hybrid" chooses the dense retriever's weight by dev queries; "fused" is the weighted mean of BM25's
and the dense retriever's calibrated scores. The full size has cross-encoders too.

The step with the lowest dev loss is kept. Dev nDCG@10 cannot choose here: the relevant passage of a
dev list is the one that the teacher ranks first, so where the student itself is the teacher, the
untrained model is perfect.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.studies import common

BM25 = {"kind": "hybrid", "dense": "student", "dense_weight": 0.0}
DENSE = {"kind": "hybrid", "dense": "student", "dense_weight": 1.0}
HYBRID = {"kind": "hybrid", "dense": "student", "dense_weight": None}
RERANKER = {
    "kind": "layerwise",
    "model": "BAAI/bge-reranker-v2.5-gemma2-lightweight@main",
    "max_length": 512,
    "dtype": "bfloat16",
}
RANK_T5 = {"kind": "rank_t5", "model": "Soyoung97/RankT5-3b@main", "max_length": 512}


def _teachers(**sections: dict[str, Any]) -> dict[str, Any]:
    return {"prep.teachers": sections}


def get_config(arg: str = "") -> ConfigDict:
    """The study; arg "cpu" has the teachers that need no other model, "smoke" is two cells."""
    config = common.experiment(arg)
    config.train.select_by = "loss"
    datasets = {"scifact": common.SCIFACT, "api_docs": common.API_DOCS}
    teachers = {
        "bm25": _teachers(bm25=BM25),
        "dense": _teachers(dense=DENSE),
        "hybrid": _teachers(hybrid=HYBRID),
        "fused": _teachers(bm25={**BM25, "weight": 0.5}, dense={**DENSE, "weight": 0.5}),
    }
    if arg == "":
        datasets["nfcorpus"] = common.NFCORPUS
        teachers["bge_reranker"] = _teachers(bge_reranker=RERANKER)
        teachers["rank_t5"] = _teachers(rank_t5=RANK_T5)
        teachers["fused_rerankers"] = _teachers(bge_reranker=RERANKER, rank_t5=RANK_T5)
    if arg == "smoke":
        datasets = {"api_docs": common.API_DOCS}
        teachers = common.only(teachers, ("hybrid", "bm25"))
    study = common.make_study(
        "teachers",
        "How much does the student's gain depend on the teacher?",
        config,
        {"dataset": datasets, "teacher": teachers},
        baseline={"teacher": "hybrid"},
        caveat="All teachers are used at one temperature; calibration brings each to [0, 1].",
        size=common.SIZES[arg],
    )
    return common.full_size(study) if arg == "" else study
