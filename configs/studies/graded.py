"""Graded lists: Wasserstein losses against KL and InfoNCE, on answers to health questions.

    python -m ldx.study --config=configs/studies/graded.py:cpu --workdir=DIR \
        --config.study.roots.mediqa2019=MEDIQA2019

MEDIQA 2019 grades answers from 0 to 3; SyCL (arXiv 2503.23239) trains on such lists. The collection
judges no test split: 100 of its 208 training questions, drawn at random, become one, and the rest
is trained on. Its 25 dev questions choose the step that is kept. No size needs a language model or
a teacher.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import mediqa2019
from configs.studies import common


def _only(loss: str, **settings: Any) -> dict[str, Any]:
    """Settings that give all weight to one loss."""
    weights = {f"loss.{name}.weight": 0.0 for name in ("listwise_kl", "info_nce", "wasserstein")}
    keys = {f"loss.{loss}.{key}": value for key, value in settings.items()}
    return {**weights, f"loss.{loss}.weight": 1.0, **keys}


# Cosines lie within [-1, 1]; divided by 0.05 they reach as far as the dot products of SyCL's model.
LOSSES = {
    "wasserstein_list": _only("wasserstein", form="list", temperature=0.05),
    "wasserstein_batch": _only("wasserstein", form="batch", temperature=0.05),
    "listwise_kl": _only("listwise_kl", targets="labels"),
    # This is SyCL's baseline, except that the positive is an entry of the highest grade; other
    # entries of grade 2 and more are no negatives.
    "info_nce": _only("info_nce", temperature=0.05, false_negative_ratio=None, relevance_level=2),
}


def _experiment(arg: str) -> ConfigDict:
    common.check_arg(arg)
    config = mediqa2019.get_config("smoke" if arg == "smoke" else "")
    config.loss.listwise_kl.teacher_temperature = 1.0  # for grades from 0 to 3
    if arg == "smoke":
        return config
    config.data.root = "mediqa2019"
    config.eval.split = "test"
    if arg == "cpu":
        config.model.query_max_length = 48
        config.model.passage_max_length = 128
        config.data.batch_size = 16
        config.train.num_steps = 20
        config.train.eval_every = 5
        config.train.dev_pool = 1500
    return config


def get_config(arg: str = "") -> ConfigDict:
    """The study; arg "cpu" is a short one, "smoke" is two cells on API docs with made-up grades."""
    losses = LOSSES
    if arg == "smoke":
        losses = common.only(LOSSES, ("wasserstein_list", "listwise_kl"))
    study = common.make_study(
        "graded",
        "Do Wasserstein losses learn more from graded lists than KL and InfoNCE?",
        _experiment(arg),
        {"loss": losses},
        baseline={"loss": "listwise_kl"},
        caveat="Grades are made up here, not people's: 3 for the passage that a query was cut out "
        "of, 1 for one that retrievers rank high, 0 for two that they rank low."
        if arg == "smoke"
        else "About a hundred questions are trained on, and as many measured: intervals are wide. "
        "Answers that nobody judged count as wrong.",
        size=common.SIZES[arg],
    )
    if arg != "smoke":
        study.study.sample.from_split = "train"
        study.study.sample.num_queries = 100
    return study
