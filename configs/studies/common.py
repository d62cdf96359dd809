"""The keys of a study, each explained once, and the sizes of the studies.

A study is a file beside this one that calls `make_study`. On the command line any key but the axes
can be set: --config.study.seeds="(0,1,2)", --config.study.base.train.num_steps=32.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from configs import base, recipes

Axes = Mapping[str, Mapping[str, Mapping[str, Any]]]

SCIFACT = {"data.root": "scifact", "data.passage_template": "{title} {text}"}
NFCORPUS = {"data.root": "nfcorpus", "data.passage_template": "{title} {text}"}
API_DOCS = {"prep.collection": "api_docs"}

SIZES = {"": "full", "cpu": "cpu", "smoke": "smoke"}
"""The name of a size in the report, by the argument of a study."""
SMOKE_CAVEAT = (
    "Smoke size: a few steps on at most 200 API docs, whose test queries are their first "
    "paragraphs. It shows that everything runs, and answers nothing."
)


def make_study(
    name: str,
    question: str,
    experiment: ConfigDict,
    axes: Axes,
    *,
    baseline: Mapping[str, str] | None = None,
    caveat: str = "",
    size: str = "",
) -> ConfigDict:
    """A study with all its keys; where the size is "smoke", the caveat begins with SMOKE_CAVEAT."""
    if size == "smoke":
        caveat = f"{SMOKE_CAVEAT} {caveat}".strip()
    config = ConfigDict()
    # Values of axes stay plain dicts, because their order matters and their keys have dots.
    config.study = study = ConfigDict(convert_dict=False)
    study.name = name
    study.question = question  # what the report answers
    study.caveat = caveat  # what it does not answer; shown in the report
    study.size = size  # a name that the report shows, such as cpu; "": unknown. It sets nothing
    study.base = experiment  # an experiment, like any other config; the axes change it
    # {AXIS: {VALUE: {"section.key": value, ...}}}: every value of an axis is combined with every
    # value of the others. Names become folders. The axis "dataset" is for collections: nothing is
    # compared across it, and each of its values counts the same in means.
    study.axes = {axis: dict(values) for axis, values in axes.items()}
    study.seeds = (0,)  # every combination is trained with each of these
    # {AXIS: VALUE}: the report compares every cell with the one that has these values instead of
    # its own, and with the untrained model. {}: only with the untrained model.
    study.baseline = dict(baseline or {})
    # The metric on the test judgments: nDCG, R, RR, AP, P or Success, at a cut-off.
    study.metric = "nDCG@10"
    # A smaller collection instead of the whole of data.root; its keys can be set by axes, as
    # sample.num_passages. A collection that data_prep makes, such as API docs, is not sampled:
    # prep.max_passages limits it.
    study.sample = sample = ConfigDict()
    # How many passages the sample has, relevant ones and random ones; None: all.
    sample.num_passages = config_dict.placeholder(int)
    # How many queries of eval.split are drawn at random; None: all. If only this is set, the
    # passages stay as they are. There may be fewer queries in the end: a drawn query that has no
    # relevant passage in the collection is left out.
    sample.num_queries = config_dict.placeholder(int)
    # For a collection that judges no queries for testing: the split from which the sampled queries
    # are taken out to become eval.split. "": the collection has eval.split.
    sample.from_split = ""
    sample.seed = 0  # the seed of the sample, the same for all seeds of the study
    # Folders of collections by the name that data.root has; "": FOLDER/NAME, where LDX_DATA_DIR
    # names FOLDER. A data.root with a / in it is the folder itself.
    datasets = study.axes.get("dataset", {}).values()
    roots = {experiment.data.root, *(values.get("data.root", "") for values in datasets)}
    study.roots = ConfigDict({root: "" for root in sorted(roots) if root and "/" not in root})
    # Whether queries and lists are made anew for each seed, or once, with the first seed. The
    # collection and its test queries are the same for all seeds in either case.
    study.prepare_each_seed = True
    # How many processes run at once. auto: one on an accelerator; else one for every 4 cores, as
    # far as memory allows.
    study.max_parallel = config_dict.placeholder(object)
    study.max_parallel = "auto"
    study.memory_per_run = 4.0  # GiB that a process may take
    return config


def check_arg(arg: str) -> None:
    """Refuse an argument that names no size."""
    if arg not in ("", "cpu", "smoke"):
        raise ValueError(f"no variant {arg!r}; there are cpu and smoke")


def experiment(arg: str) -> ConfigDict:
    """The experiment that a study begins with, in the size that `arg` names.

    "" is CADET's recipe, with queries written by an LLM and a cross-encoder as teacher, but all
    cells take the same number of steps at the same rate, however many lists they have. "cpu" has
    extractive queries and the hybrid teacher, and takes minutes a cell on two cores. "smoke" has
    200 API docs and takes one to three minutes a cell on two cores, most of it for compiling.
    """
    check_arg(arg)
    config = base.get_config()
    if arg == "":
        config.model.query_max_length = 64
        config.model.passage_max_length = 256
        # auto and early stops depend on the number of lists, which differs between cells.
        config.data.batch_size = 256  # or somewhat fewer: an epoch is cut evenly
        config.optim.learning_rate = 5e-5  # what auto gives for that batch
        config.optim.warmup_steps = 40
        config.train.num_steps = 400
        config.train.eval_every = 40
        config.train.stop_on = None
        return recipes.use_cadet(config)
    recipes.use_hybrid_teacher(config)
    if arg == "smoke":
        recipes.apply_smoke(config)
        config.train.stop_on = None
        return config
    config.model.query_max_length = 48
    config.model.passage_max_length = 128
    config.prep.max_queries = 1500
    config.prep.max_passages = 2000  # of API docs
    config.prep.list_size = 8
    config.data.batch_size = 24
    config.optim.learning_rate = 3e-5
    config.train.num_steps = 16
    config.train.eval_every = 8
    config.train.stop_on = None
    config.train.dev_pool = 1500
    return config


def full_size(config: ConfigDict) -> ConfigDict:
    """The study with one preparation for all seeds, because an LLM's queries cost hours."""
    config.study.prepare_each_seed = False
    return config


def only(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values of an axis that have these names."""
    return {name: values[name] for name in names}
