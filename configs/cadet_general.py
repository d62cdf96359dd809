"""A general model from several corpora, each batch of one, corpora in turns, as CADET-embed.

    for name in msmarco nq hotpotqa fever fiqa scifact nfcorpus; do
      python -m data_prep.run --config=configs/cadet_general.py --workdir=runs/general/$name \
          --config.data.root=data/$name
    done
    python -m ldx.train --config=configs/cadet_general.py --workdir=runs/general

Every corpus is prepared separately, so it has its own rows, prompts and calibration; data/NAME is
its folder in BEIR layout. A step has 4096 lists of 20, and the warm-up has 20 steps; the dev loss
is weighted by the dev lists of each corpus, and metrics are shown for each. It is meant for
accelerators. Only the batches are CADET-embed's: its queries were written by an LLM and its lists
scored by cross-encoders (here they are extractive, and scored by BM25 and the student), and its
corpora were others. The report judges the model on the corpora that it was trained on, so its
numbers are no zero-shot results. The smoke variant does the same with the docstrings of two
packages:

    for name in numpy jax; do
      python -m data_prep.run --config=configs/cadet_general.py:smoke \
          --workdir=runs/general-smoke/$name --config.prep.packages="('$name',)"
    done
    python -m ldx.train --config=configs/cadet_general.py:smoke --workdir=runs/general-smoke
"""

from ml_collections import ConfigDict

from configs import base, recipes

CORPORA = ("msmarco", "nq", "hotpotqa", "fever", "fiqa", "scifact", "nfcorpus")
SMOKE_CORPORA = ("numpy", "jax")


def get_config(arg: str = "") -> ConfigDict:
    """The experiment on several corpora; arg "smoke" runs two minutes on local data instead."""
    recipes.check_arg(arg)
    config = base.get_config()
    config.model.path = "intfloat/e5-base-unsupervised@main"  # put a commit here to pin it
    config.model.query_prompt = "query: "
    config.model.passage_prompt = "passage: "
    config.model.pooling = "mean"
    config.model.normalize = True
    config.model.dtype = "bfloat16"
    recipes.use_hybrid_teacher(config)
    config.data.batch_size = 4096
    config.optim.warmup_steps = 20
    if arg == "smoke":
        recipes.apply_smoke(config)
        config.optim.warmup_steps = 1
        for name in SMOKE_CORPORA:
            folder = f"runs/general-smoke/{name}"
            config.data.sources[name] = _source(f"{folder}/records", f"{folder}/dataset")
        return config
    for name in CORPORA:
        config.data.sources[name] = _source(f"runs/general/{name}/records", f"data/{name}")
    return config


def _source(records: str, root: str) -> ConfigDict:
    """A source whose lists all stand once in an epoch, with its judgments for the report."""
    return ConfigDict({"records": records, "root": root, "weight": 1.0})
