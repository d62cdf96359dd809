"""What decides when the query tower learns alone: lists, queries, epochs, rate, or a passage map?

    python -m ldx.study --config=configs/studies/query_tower.py:cpu --workdir=DIR \\
        --config.study.roots.scifact=SCIFACT --config.study.roots.nfcorpus=NFCORPUS

The texts of the training split's queries serve as a log, without their judgments. Each recipe
changes one thing of that of configs/scifact.py; the warm-up fits the length of each run.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base, recipes
from configs.studies import common

LOG = {"prep.queries": "log", "prep.log": "split:train"}
RECIPES: dict[str, dict[str, Any]] = {
    "as_is": {},
    "lists_of_8": {"data.list_size": 8},
    "lists_of_20": {"data.list_size": 20},
    "lists_of_64": {"data.list_size": 64},
    "whole_corpus": {"prep.list_size": None},
    # As many entries, spread over the teacher's scores of a thousand candidates.
    "stratified": {"prep.list_sampling": "stratified", "prep.candidate_depth": 1000},
    "160_queries": {"prep.max_queries": 160},
    "320_queries": {"prep.max_queries": 320},
    "one_epoch": {"train.max_epochs": 1},
    "eight_epochs": {"train.max_epochs": 8},
    "rate_3e-5": {"optim.learning_rate": 3e-5},
    "passage_map": {"train.passage_map": "linear"},
}


def get_config(arg: str = "") -> ConfigDict:
    """The study with three seeds; arg "cpu" has one, "smoke" is two cells on local data."""
    common.check_arg(arg)
    config = recipes.use_query_tower(base.get_config())
    config.model.query_max_length = 48
    config.model.passage_max_length = 256
    datasets: dict[str, dict[str, Any]] = {
        "scifact": {**common.SCIFACT, **LOG},
        "nfcorpus": {**common.NFCORPUS, **LOG},
    }
    variants = RECIPES
    if arg == "smoke":
        recipes.apply_smoke(config)
        datasets = {"api_docs": common.API_DOCS}
        variants = common.only(RECIPES, ("as_is", "passage_map"))
    study = common.make_study(
        "query_tower",
        "What decides when the query tower learns alone?",
        config,
        {"dataset": datasets, "recipe": variants},
        baseline={"recipe": "as_is"},
        caveat="One thing is changed at a time, and nothing is tuned for it.",
        size=common.SIZES[arg],
    )
    if arg == "":
        study.study.seeds = (0, 1, 2)
    return study
