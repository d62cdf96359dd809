"""The demo: all-MiniLM-L6-v2 learns to search API documentation, without a downloaded byte.

    python -m data_prep.run --config=configs/demo.py --workdir=runs/demo
    python -m ldx.train --config=configs/demo.py --workdir=runs/demo

The corpus is 2,000 docstrings of numpy, scipy and jax; queries are extractive, and the teacher is
the hybrid of BM25 and MiniLM itself. The query tower learns alone, from lists of 64, in six minutes
on two CPU cores. `make demo` runs it all, export included.
"""

from ml_collections import ConfigDict

from configs import base, recipes


def get_config(arg: str = "") -> ConfigDict:
    """The demo; arg "smoke" makes it smaller."""
    recipes.check_arg(arg)
    config = recipes.use_query_tower(base.get_config())
    config.prep.collection = "api_docs"
    config.prep.max_passages = 2000
    config.prep.max_queries = 3600
    config.prep.list_size = 64
    config.model.query_max_length = 32
    config.model.passage_max_length = 96
    config.train.max_epochs = 2
    config.train.dev_pool = 2000  # the whole corpus
    config.logging.every_steps = 20
    return recipes.apply_smoke(config) if arg == "smoke" else config
