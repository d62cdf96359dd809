"""NFCorpus with all-MiniLM-L6-v2: titles of health articles against 3,633 medical abstracts.

    python -m data_prep.run --config=configs/nfcorpus.py --workdir=DIR --config.data.root=NFCORPUS
    python -m ldx.train --config=configs/nfcorpus.py --workdir=DIR --config.data.root=NFCORPUS

NFCORPUS is the collection's folder in BEIR layout, with graded judgments. The texts of its 2,590
training queries serve as a query log; their judgments are not read. On two CPU cores it takes ten
minutes, half of it for embedding the abstracts once, which an accelerator does faster.
docs/results.md has the results; the untrained model has nDCG@10 0.316.
"""

from ml_collections import ConfigDict

from configs import base, recipes


def get_config(arg: str = "") -> ConfigDict:
    """The experiment on NFCorpus; arg "smoke" runs two minutes on local data instead."""
    recipes.check_arg(arg)
    config = recipes.use_query_tower(base.get_config())
    config.data.root = "data/nfcorpus"
    config.data.passage_template = "{title} {text}"
    config.model.query_max_length = 48
    config.model.passage_max_length = 256
    config.train.max_epochs = 3
    config.optim.warmup_steps = 20
    config.prep.queries = "log"
    config.prep.log = "split:train"
    return recipes.apply_smoke(config) if arg == "smoke" else config
