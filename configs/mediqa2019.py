"""MEDIQA 2019: MiniLM learns from people's grades of answers to health questions, by Wasserstein.

    python -m data_prep.run --config=configs/mediqa2019.py --workdir=DIR --config.data.root=MEDIQA
    python -m ldx.train --config=configs/mediqa2019.py --workdir=DIR --config.data.root=MEDIQA

MEDIQA is the collection's folder in BEIR layout: 2,398 answers, and 208 training questions with
about eight each that are graded from 3 (excellent) to 0 (incorrect). Lists hold all of them with
their grades, and there is no teacher. Results are measured on the 25 questions of its dev split, so
intervals are wide. configs/mediqa2019.py:smoke, without a root, takes a minute a command, on 200
API docs.
"""

from ml_collections import ConfigDict

from configs import base, recipes


def get_config(arg: str = "") -> ConfigDict:
    """The experiment on MEDIQA; arg "smoke" is a short run on API docs with made-up grades."""
    recipes.check_arg(arg)
    config = base.get_config()
    config.data.root = "data/mediqa2019"
    config.data.batch_size = 32
    config.model.query_max_length = 64
    config.model.passage_max_length = 256
    config.eval.split = "dev"
    config.prep.queries = "human"
    config.prep.human_split = "train"
    # Every judged answer counts: none is held out, and none is dropped as a duplicate of an answer
    # with another grade.
    config.prep.num_held_out = 0
    config.prep.drop_near_duplicates = False
    config.prep.dev_fraction = 0.2
    config.prep.list_source = "graded"
    config.prep.graded = ConfigDict({"people": {"kind": "judged", "num": None}})
    config.loss.listwise_kl.weight = 0.0
    config.loss.info_nce.weight = 0.0
    config.loss.wasserstein.weight = 1.0
    config.loss.wasserstein.temperature = 0.05
    config.optim.learning_rate = 2e-5
    config.train.max_epochs = 4
    config.train.stop_on = None
    return _smoke(config) if arg == "smoke" else config


def _smoke(config: ConfigDict) -> ConfigDict:
    recipes.apply_smoke(config)
    config.eval.split = "test"
    config.prep.graded = recipes.smoke_graded()
    return config
