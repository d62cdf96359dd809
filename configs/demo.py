"""The demo: all-MiniLM-L6-v2 learns to search API documentation, without a downloaded byte.

    python -m data_prep.run --config=configs/demo.py --workdir=runs/demo
    python -m ldx.train --config=configs/demo.py --workdir=runs/demo

The corpus is 2,000 docstrings of numpy, scipy and jax; queries are extractive, and the teacher is
the hybrid of BM25 and MiniLM itself. It takes seven to ten minutes on two CPU
cores. `make demo` runs it
all, export included.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """The demo; arg "smoke" makes it smaller."""
    base.check_arg(arg)
    config = base.get_config()
    config.prep.collection = "api_docs"
    config.prep.max_passages = 2000
    config.prep.list_size = 8
    config.model.query_max_length = 32
    config.model.passage_max_length = 96
    config.data.batch_size = 24
    base.use_hybrid_teacher(config)
    config.loss.info_nce.weight = 0.0
    config.optim.learning_rate = 3e-5
    config.train.num_steps = 12
    config.train.eval_every = 6
    config.train.stop_on = None
    config.train.dev_pool = 2000  # the whole corpus: with fewer dev lists, steps look the same
    return base.apply_smoke(config) if arg == "smoke" else config
