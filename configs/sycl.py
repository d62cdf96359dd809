"""SyCL's recipe on MS MARCO: Contriever learns from passages that an LLM writes at four levels.

    python -m data_prep.run --config=configs/sycl.py --workdir=DIR --config.data.root=MSMARCO
    python -m ldx.train --config=configs/sycl.py --workdir=DIR --config.data.root=MSMARCO

(arXiv 2503.23239.) MSMARCO is the collection's folder in BEIR layout. For each training query
Llama-3.3-70B writes passages of levels 3, 2, 1 and 0 (`pip install '.[vllm]'`, or
--config.prep.llm.backend=openai and a server; --dry-run says what that costs). Training sees no
real passage. Real ones join them by --config.prep.graded.real.num=1 (the judged passage, as 3) and
--config.prep.graded.mined.num=2 (mined negatives, as 0), which makes seven a query. It is meant for
accelerators.

Mean pooling, no normalisation, temperature 1, 256 tokens, learning rate 1e-5, one epoch, labels
without a temperature and documents of other queries at level 0 are as published. What is not:
the batch softmax spans the 1,024 documents of 256 queries, where the published one spans 256 slots
(four accumulated batches of 64 queries), so that the mass of level 3 in the targets is 1.9% here
and 7.1% there; weight decay is ldx's and the rate ends at a tenth, there 0 and 0; the step that is
kept is chosen by dev, there it is the last; there is no dropout; mined passages are level 0 where
they join written ones, there 1; a tenth of the queries is kept for dev; and warm-up is given in
steps, 5% of an epoch of 450,000 lists, which other numbers of lists need to change.

The smoke variant asks no LLM and shows no more than that everything runs: MiniLM on 200 API docs,
where the passage that an extractive query was cut out of stands in for level 3, a passage that
retrievers rank high for level 1, and two that they rank low for level 0. Both commands with
configs/sycl.py:smoke, and without a root, take a minute or two.
"""

from ml_collections import ConfigDict

from configs import base, recipes

LISTS_OF_AN_EPOCH = 450_000


def get_config(arg: str = "") -> ConfigDict:
    """The experiment of SyCL; arg "smoke" runs two minutes on local data instead."""
    recipes.check_arg(arg)
    config = base.get_config()
    # Put commits in place of @main to pin the models. The loader reads only safetensors.
    config.model.path = "facebook/contriever@main"
    config.model.pooling = "mean"
    config.model.normalize = False
    config.model.query_max_length = 256
    config.model.passage_max_length = 256
    config.model.dtype = "bfloat16"
    config.data.root = "data/msmarco"
    config.data.batch_size = 256
    config.prep.queries = "human"
    config.prep.llm.model = "meta-llama/Llama-3.3-70B-Instruct@main"
    config.prep.list_source = "graded"
    config.prep.graded = ConfigDict(
        {
            "written": {"kind": "synthetic", "levels": (3, 2, 1, 0)},
            "real": {"kind": "judged", "num": 0, "relabel": {"1": 3}},
            "mined": {"kind": "mined", "num": 0, "label": 0, "range_min": 10},
        }
    )
    config.loss.listwise_kl.weight = 0.0
    config.loss.info_nce.weight = 0.0
    config.loss.wasserstein.weight = 1.0
    config.loss.wasserstein.form = "batch"
    config.loss.wasserstein.temperature = 1.0
    config.optim.learning_rate = 1e-5
    config.optim.warmup_steps = round(0.05 * LISTS_OF_AN_EPOCH / config.data.batch_size)
    config.train.max_epochs = 1
    config.train.eval_every = 200
    config.train.stop_on = None
    return _smoke(config) if arg == "smoke" else config


def _smoke(config: ConfigDict) -> ConfigDict:
    recipes.apply_smoke(config)
    config.optim.warmup_steps = 1
    config.loss.wasserstein.temperature = 0.05  # MiniLM's embeddings have unit norm
    config.prep.graded = recipes.smoke_graded()
    return config
