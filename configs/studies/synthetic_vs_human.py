"""Synthetic or human-written training queries? NFCorpus and SciFact have training queries.

    python -m ldx.study --config=configs/studies/synthetic_vs_human.py:cpu --workdir=DIR \
        --config.study.roots.scifact=SCIFACT --config.study.roots.nfcorpus=NFCORPUS

This is the third claim of CADET (arXiv 2505.19274). "both" trains on both kinds of queries. Lists
have the same size in all cells.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.studies import common

CAVEATS = {
    "": "",
    "cpu": "Synthetic queries are cut out of passages here, not written by a language model.",
    "smoke": "No training query here is written by people, so the question is not asked: compared "
    "are two sets of queries cut out of passages, all types and keywords alone.",
}


def get_config(arg: str = "") -> ConfigDict:
    """The study; arg "cpu" has extractive queries, "smoke" is two cells on local data.

    Local data has no training queries of people, so "smoke" compares two kinds of extractive ones.
    """
    config = common.experiment(arg)
    # Lists of people's queries hold all that was judged relevant; if they were not cut, a step
    # would see far more passages.
    config.data.list_size = config.prep.list_size
    synthetic = "llm" if arg == "" else "extractive"
    datasets = {"nfcorpus": common.NFCORPUS, "scifact": common.SCIFACT}
    queries: dict[str, dict[str, Any]] = {
        synthetic: {"prep.queries": synthetic},
        "human": {"prep.queries": "human"},
        "both": {"prep.queries": f"{synthetic}+human"},
    }
    if arg == "smoke":
        datasets = {"api_docs": common.API_DOCS}
        queries = {
            synthetic: {"prep.query_types": None},
            "keywords": {"prep.query_types": ("keywords",)},
        }
    study = common.make_study(
        "synthetic_vs_human",
        "Do synthetic queries train as good a retriever as human-written ones?",
        config,
        {"dataset": datasets, "queries": queries},
        baseline={"queries": synthetic if arg == "smoke" else "human"},
        caveat=CAVEATS[arg],
        size=common.SIZES[arg],
    )
    return common.full_size(study) if arg == "" else study
