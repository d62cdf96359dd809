"""Your own corpus, in minutes on two CPU cores: the query tower of MiniLM learns to search it.

    python -m data_prep.run --config=configs/mine.py --workdir=runs/mine \\
        --config.data.root=CORPUS --config.prep.queries=log --config.prep.log=QUERIES.txt
    python -m ldx.train --config=configs/mine.py --workdir=runs/mine --config.data.root=CORPUS
    python -m ldx.export --workdir=runs/mine --output=runs/mine/export

CORPUS is a folder in BEIR layout, and QUERIES.txt what people typed, a query a line: the best
source of training queries that there is, and it needs no judgments. Without a log leave out what
names it; queries are then cut out of passages, which helps where people search by the corpus's own
words. 5,000 passages and 1,000 queries take about 15 minutes on two CPU cores. On an accelerator
the first embedding of the corpus takes seconds instead of minutes, and passages may be longer
(model.passage_max_length).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a user's corpus; arg "smoke" runs two minutes on local data instead."""
    base.check_arg(arg)
    config = base.use_query_tower(base.get_config())
    config.data.passage_template = "{title} {text}"
    config.model.passage_max_length = 256
    return base.apply_smoke(config) if arg == "smoke" else config
