"""NFCorpus with all-MiniLM-L6-v2 and the collection's own 2,590 training queries.

    python -m data_prep.run --config=configs/nfcorpus.py --workdir=DIR --config.data.root=NFCORPUS
    python -m ldx.train --config=configs/nfcorpus.py --workdir=DIR --config.data.root=NFCORPUS

NFCORPUS is the collection's folder in BEIR layout: 3,633 medical abstracts, graded judgments.
Without training the model has nDCG@10 0.316. --config.prep.queries=extractive needs no judgments.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """The experiment on NFCorpus; arg "smoke" runs two minutes on local data instead."""
    base.check_arg(arg)
    config = base.get_config()
    config.data.root = "data/nfcorpus"
    config.data.passage_template = "{title} {text}"
    config.model.passage_max_length = 256
    base.use_hybrid_teacher(config)
    config.prep.queries = "human"
    return base.apply_smoke(config) if arg == "smoke" else config
