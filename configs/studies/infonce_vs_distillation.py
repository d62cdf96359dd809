"""Does InfoNCE hurt where listwise distillation helps? SciFact, NFCorpus, API docs; five losses.

    python -m ldx.study --config=configs/studies/infonce_vs_distillation.py:cpu --workdir=DIR \
        --config.study.roots.scifact=SCIFACT --config.study.roots.nfcorpus=NFCORPUS

This is the first claim of CADET (arXiv 2505.19274). As there, the step with the lowest dev loss is
kept: a choice by dev nDCG@10 would hide harm, because the untrained model is a candidate.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.studies import common

LOSSES: dict[str, dict[str, Any]] = {
    "listwise_kl": {"loss.listwise_kl.weight": 1.0, "loss.info_nce.weight": 0.0},
    "info_nce": {
        "loss.listwise_kl.weight": 0.0,
        "loss.info_nce.weight": 1.0,
        "loss.info_nce.false_negative_ratio": None,
    },
    # There are no mined negatives: the positives of the batch's other queries are the only ones.
    "info_nce_in_batch": {
        "loss.listwise_kl.weight": 0.0,
        "loss.info_nce.weight": 1.0,
        "loss.info_nce.false_negative_ratio": None,
        "data.list_size": 1,
    },
    "both": {"loss.listwise_kl.weight": 1.0, "loss.info_nce.weight": 0.1},
    # Passages within 5% of the positive's teacher score leave the list. In the lists of other
    # queries they still count, as in sentence-transformers' mine_hard_negatives.
    "info_nce_denoised": {
        "loss.listwise_kl.weight": 0.0,
        "loss.info_nce.weight": 1.0,
        "loss.info_nce.false_negative_ratio": None,
        "prep.relative_margin": 0.05,
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """The study; arg "cpu" needs no other model, "smoke" is two cells on local data."""
    config = common.experiment(arg)
    config.train.select_by = "loss"
    datasets = {
        "scifact": common.SCIFACT,
        "nfcorpus": common.NFCORPUS,
        "api_docs": common.API_DOCS,
    }
    axes: common.Axes = {"dataset": datasets, "loss": LOSSES}
    if arg == "smoke":
        axes = {
            "dataset": {"api_docs": common.API_DOCS},
            "loss": common.only(LOSSES, ("listwise_kl", "info_nce")),
        }
    study = common.make_study(
        "infonce_vs_distillation",
        "Does InfoNCE fine-tuning hurt where listwise distillation helps?",
        config,
        axes,
        baseline={"loss": "listwise_kl"},
        caveat=""
        if arg == ""
        else "Queries are cut out of passages and the teacher is the hybrid of BM25 and the "
        "student: evidence about this setting, not about LLM-written queries and cross-encoders.",
        size=common.SIZES[arg],
    )
    return common.full_size(study) if arg == "" else study
