"""Are diverse query types better than each single one? Scored by test queries and by query type.

    python -m ldx.study --config=configs/studies/query_types.py:cpu --workdir=DIR \
        --config.study.roots.scifact=SCIFACT --config.study.roots.nfcorpus=NFCORPUS

This is the second claim of CADET (arXiv 2505.19274). All cells of a dataset share one preparation
with all types; to train on a single type, the others have the weight 0. Thus all cells have dev
lists of every type, and take the same number of steps of the same batch size.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from configs.studies import common

WRITTEN_TYPES = (
    "question",
    "claim",
    "title",
    "keywords",
    "web_search_zero_shot",
    "web_search_few_shot",
)
CUT_OUT_TYPES = ("sentence", "keywords", "title")


def _types(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The values of the axis: all types, and each type alone."""
    key = "data.query_type_weights"
    alone = {name: {key: {x: 0.0 for x in names if x != name}} for name in names}
    return {"all": {key: {}}, **alone}


def get_config(arg: str = "") -> ConfigDict:
    """The study; arg "cpu" has extractive types, "smoke" is two cells on local data."""
    config = common.experiment(arg)
    # Dev queries are synthetic, so that each type has some.
    config.prep.human_dev_split = ""
    datasets = {
        "scifact": common.SCIFACT,
        "nfcorpus": common.NFCORPUS,
        "api_docs": common.API_DOCS,
    }
    types = _types(WRITTEN_TYPES if arg == "" else CUT_OUT_TYPES)
    if arg == "smoke":
        datasets = {"api_docs": common.API_DOCS}
        types = common.only(types, ("all", "title"))
    study = common.make_study(
        "query_types",
        "Do queries of diverse types train a better retriever than those of any single type?",
        config,
        {"dataset": datasets, "types": types},
        baseline={"types": "all"},
        caveat="The kept step is chosen on dev lists of all types, also where one was trained on."
        + (
            ""
            if arg == ""
            else " Extractive types are not LLM-written claims and questions: this is evidence "
            "about ldx, not about the papers' claim."
        ),
        size=common.SIZES[arg],
    )
    return common.full_size(study) if arg == "" else study
