"""CADET's recipe on FiQA: e5-base-unsupervised learns to search 57,638 financial answers.

    python -m data_prep.run --config=configs/fiqa.py --workdir=DIR --config.data.root=FIQA
    python -m ldx.train --config=configs/fiqa.py --workdir=DIR --config.data.root=FIQA

FIQA is the collection's folder in BEIR layout. An LLM writes six queries a passage (`pip install
'.[vllm]'`, or --config.prep.llm.backend=openai and a server), three retrievers find candidates, and
a cross-encoder scores them; --dry-run says what that costs. Training takes up to 4096 lists of 20 a
step and minimises KL plus a tenth of InfoNCE. All of it is meant for accelerators;
configs/fiqa.py:smoke, without a root, takes two minutes a command, on 200 API docs.

Where it differs from the published code: lists are the teacher's best of three retrievers' fused
candidates, where each published list is the top 20 of one retriever, in the teacher's order; the
consistency filter goes by the fused rank, there by that retriever's own; the reranker answers from
its 28th layer, there from its 25th; and the step that is kept has the highest dev nDCG@10, on
people's dev queries where the collection has some, there the lowest loss on synthetic dev queries
(--config.train.select_by=loss --config.prep.human_dev_split=).
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
