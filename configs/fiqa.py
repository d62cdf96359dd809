"""CADET's recipe on FiQA: e5-base-unsupervised learns to search 57,638 financial answers.

    python -m data_prep.run --config=configs/fiqa.py --workdir=DIR --config.data.root=FIQA
    python -m ldx.train --config=configs/fiqa.py --workdir=DIR --config.data.root=FIQA

FIQA is the collection's folder in BEIR layout. The settings are those of configs/base.py: up to
4096 lists of 20 a step, KL plus a tenth of InfoNCE. The teacher is the hybrid of data_prep, at its
temperature; with a cross-encoder's scores set it back to 0.3. It is meant for accelerators.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """FiQA; arg "smoke" runs two minutes on local data instead."""
    base.check_arg(arg)
    config = base.get_config()
    config.data.root = "data/fiqa"
    config.model.path = "intfloat/e5-base-unsupervised@main"  # put a commit here to pin it
    config.model.query_prompt = "query: "
    config.model.passage_prompt = "passage: "
    base.use_hybrid_teacher(config)
    config.model.pooling = "mean"
    config.model.normalize = True
    config.model.dtype = "bfloat16"
    return base.apply_smoke(config) if arg == "smoke" else config
