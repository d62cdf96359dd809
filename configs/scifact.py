"""SciFact with all-MiniLM-L6-v2: claims against 5,183 abstracts.

    python -m data_prep.run --config=configs/scifact.py --workdir=DIR --config.data.root=SCIFACT
    python -m ldx.train --config=configs/scifact.py --workdir=DIR --config.data.root=SCIFACT

SCIFACT is the collection's folder in BEIR layout. The texts of the 809 training claims serve as a
query log; their judgments are not read. On two CPU cores it takes six minutes, or twice that where
they are busy, most of it for embedding the abstracts once, which an accelerator does faster.
docs/results.md has the results; the untrained model has nDCG@10 0.645.
"""

from ml_collections import ConfigDict

from configs import base, recipes


def get_config(arg: str = "") -> ConfigDict:
    """The experiment on SciFact; arg "smoke" runs two minutes on local data instead."""
    recipes.check_arg(arg)
    config = recipes.use_query_tower(base.get_config())
    config.data.root = "data/scifact"
    config.data.passage_template = "{title} {text}"
    config.model.query_max_length = 48
    config.model.passage_max_length = 256
    config.optim.warmup_steps = 20
    config.prep.queries = "log"
    config.prep.log = "split:train"
    return recipes.apply_smoke(config) if arg == "smoke" else config
