"""CADET's recipe on FiQA: e5-base-unsupervised learns to search 57,638 financial answers.

    python -m data_prep.run --config=configs/fiqa.py --workdir=DIR --config.data.root=FIQA
    python -m ldx.train --config=configs/fiqa.py --workdir=DIR --config.data.root=FIQA

FIQA is the collection's folder in BEIR layout. An LLM writes six queries a passage (`pip install
'.[vllm]'`, or --config.prep.llm.backend=openai and a server), three retrievers find candidates, and
a cross-encoder scores them; --dry-run says what that costs. Training takes up to 4096 lists of 20 a
step and minimises KL plus a tenth of InfoNCE. All of it is meant for accelerators;
configs/fiqa.py:smoke, without a root, takes two minutes a command, on 200 API docs.
"""

from ml_collections import ConfigDict

from configs import base, recipes


def get_config(arg: str = "") -> ConfigDict:
    """The experiment on FiQA; arg "smoke" runs two minutes on local data instead."""
    recipes.check_arg(arg)
    config = base.get_config()
    config.data.root = "data/fiqa"
    config.model.path = "intfloat/e5-base-unsupervised@main"  # put a commit here to pin it
    config.model.query_prompt = "query: "
    config.model.passage_prompt = "passage: "
    config.model.pooling = "mean"
    config.model.normalize = True
    config.model.dtype = "bfloat16"
    recipes.use_cadet(config)
    return recipes.apply_smoke(config) if arg == "smoke" else config
