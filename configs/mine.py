"""Your own corpus: the query tower of MiniLM learns to search it.

    python -m data_prep.run --config=configs/mine.py --workdir=runs/mine \\
        --config.data.root=CORPUS --config.prep.queries=log --config.prep.log=QUERIES.txt
    python -m ldx.train --config=configs/mine.py --workdir=runs/mine --config.data.root=CORPUS
    python -m ldx.export --workdir=runs/mine --output=runs/mine/export

CORPUS is a folder in BEIR layout, and QUERIES.txt what people typed, a query a line; it needs no
judgments. Without a log put --config.prep.max_queries=3600 in place of the second line: queries are
then cut out of passages, as in the demo. SciFact, with 5,183 passages and 648 queries, takes six
minutes on two CPU cores, most of it for embedding the passages. On an accelerator passages may be
longer (model.passage_max_length).
"""

from ml_collections import ConfigDict

from configs import base, recipes


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a user's corpus; arg "smoke" runs two minutes on local data instead."""
    recipes.check_arg(arg)
    config = recipes.use_query_tower(base.get_config())
    config.data.passage_template = "{title} {text}"
    config.model.passage_max_length = 256
    return recipes.apply_smoke(config) if arg == "smoke" else config
