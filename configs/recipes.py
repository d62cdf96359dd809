"""Recipes that experiments share: each sets several keys of configs/base.py together."""

from ml_collections import ConfigDict

from configs import base

BGE_PROMPT = "Represent this sentence for searching relevant passages: "


def use_calibration(
    config: ConfigDict, calibration: str, *, teacher_temperature: float
) -> ConfigDict:
    """Set how scores are calibrated, and the temperature that goes with it."""
    config.prep.calibration = calibration
    config.loss.listwise_kl.teacher_temperature = teacher_temperature
    return config


def use_cadet(config: ConfigDict) -> ConfigDict:
    """Set CADET's way to lists (arXiv 2505.19274).

    An LLM writes queries of six types, three retrievers find candidates, and a cross-encoder scores
    them. The student itself is one of the retrievers.
    """
    config.prep.queries = "llm"
    # Put commits in place of @main to pin the models.
    bge = {"kind": "dense", "path": "BAAI/bge-base-en-v1.5@main", "query_prompt": BGE_PROMPT}
    config.prep.retrievers.bge = ConfigDict(bge)
    reranker = "BAAI/bge-reranker-v2.5-gemma2-lightweight@main"
    teacher = {"kind": "layerwise", "model": reranker, "max_length": 512, "dtype": "bfloat16"}
    config.prep.teachers = ConfigDict({"bge_reranker": teacher})
    return use_calibration(config, "percentile", teacher_temperature=0.3)


def use_hybrid_teacher(config: ConfigDict) -> ConfigDict:
    """Set the temperature that goes with the hybrid of BM25 and student, calibrated to [0, 1].

    Its scores lie closer together than a cross-encoder's: at 0.3 the targets are almost flat (the
    first of 8 entries has 0.38 of the mass in the demo, 0.73 at 0.1), and the student gets worse.
    """
    return use_calibration(config, "percentile", teacher_temperature=0.1)


def use_query_tower(config: ConfigDict) -> ConfigDict:
    """Set the recipe for small machines: the query tower alone learns, from long lists.

    Each passage is embedded once, so a step embeds its queries alone; that first embedding is what
    takes long for a large corpus. The teacher is the hybrid of BM25 and the student, its z-scores
    as they are; nothing is filtered. docs/results.md has what it gives, and what was tried.
    """
    config.train.towers = "query"
    config.train.max_epochs = 4
    config.train.stop_on = None
    config.data.batch_size = 32
    config.optim.learning_rate = 1e-4
    config.loss.info_nce.weight = 0.0
    config.prep.list_size = 200
    config.prep.rank_limit = None
    config.prep.require_own_first = False
    config.prep.min_top_score_percentile = None
    config.prep.teachers = base.base_teachers()
    return use_calibration(config, "none", teacher_temperature=0.5)


def apply_smoke(config: ConfigDict) -> ConfigDict:
    """Turn an experiment into one of two minutes on a CPU, to see that everything runs.

    Model and corpus are replaced by local ones: MiniLM from its package, and 200 API docs.
    """
    config.model.path = base.MINILM
    config.model.dtype = "float32"
    for key in ("pooling", "normalize", "query_prompt", "passage_prompt"):
        config.model[key] = None
    config.model.query_max_length = 32
    config.model.passage_max_length = 64
    config.data.root = ""
    config.eval.split = "test"
    config.data.batch_size = 16
    config.train.num_steps = 4
    config.train.eval_every = 2
    config.optim.warmup_steps = "auto"
    config.train.dev_pool = 100
    config.prep.collection = "api_docs"
    config.prep.packages = ("numpy",)
    config.prep.max_passages = 200
    config.prep.queries = "extractive"
    config.prep.log = ""
    config.prep.query_types = None
    config.prep.teachers = base.base_teachers()
    config.prep.retrievers = base.base_retrievers()
    config.prep.python = ConfigDict()
    config.prep.list_size = 6
    return use_hybrid_teacher(config)


def smoke_graded() -> ConfigDict:
    """Sources of `prep.graded` that stand in for graded lists where nobody judged or wrote any.

    The passage that a query was cut out of has label 3, one that retrievers rank high has 1, and
    two that they rank low have 0. That is no evidence of anything but that the code runs.
    """
    return ConfigDict(
        {
            "own": {"kind": "judged", "num": 1, "relabel": {"1": 3}},
            "near": {"kind": "mined", "num": 1, "label": 1, "range_max": 10},
            "far": {"kind": "mined", "num": 2, "label": 0, "range_min": 50},
        }
    )


def check_arg(arg: str) -> None:
    """Refuse a variant that no experiment has."""
    if arg not in ("", "smoke"):
        raise ValueError(f"no variant {arg!r}; there is smoke")
