"""What is left of the gain as the corpus shrinks from thousands of passages to a few hundred?

    python -m ldx.study --config=configs/studies/corpus_size.py:cpu --workdir=DIR \
        --config.study.roots.scifact=SCIFACT

Smaller corpora of SciFact hold the passages relevant to 100 of its test queries, the same in all
sizes, and random others. Those of API docs are random docstrings, and all their summaries are test
queries. In both cases a larger corpus contains the smaller ones, and two sizes are compared on the
queries that both have.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base
from configs.studies import common


def _size(num_passages: int) -> dict[str, Any]:
    """Settings that limit the passages of a collection that data.root names, and of API docs."""
    return {"sample.num_passages": num_passages, "prep.max_passages": num_passages}


def get_config(arg: str = "") -> ConfigDict:
    """The study; arg "cpu" needs no other model, "smoke" is two cells on local data."""
    config = common.experiment(arg)
    if arg == "":  # in this study the recipe adapts to the number of lists that each corpus gives
        recipe = base.get_config()
        config.data.batch_size = recipe.data.batch_size
        config.optim = recipe.optim
        for key in ("num_steps", "eval_every", "stop_on"):
            config.train[key] = recipe.train[key]
    datasets = {"scifact": common.SCIFACT, "api_docs": common.API_DOCS}
    sizes: dict[str, dict[str, Any]] = {str(n): _size(n) for n in (4000, 1200, 400)}
    if arg == "smoke":
        datasets = {"api_docs": common.API_DOCS}
        sizes = {str(number): {"prep.max_passages": number} for number in (200, 100)}
    study = common.make_study(
        "corpus_size",
        "How does the gain change as the corpus shrinks to a few hundred passages?",
        config,
        {"dataset": datasets, "passages": sizes},
        baseline={"passages": next(iter(sizes))},
        caveat="Fewer passages are easier to search, so the base model is better on them: gains "
        "are compared, not levels. Fewer passages also give fewer training lists.",
        size=common.SIZES[arg],
    )
    if arg != "smoke":
        study.study.sample.num_queries = 100
    return common.full_size(study) if arg == "" else study
