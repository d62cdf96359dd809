"""What a configuration will cost: passages, prompts, tokens and pairs, and hours by a small sample.

Nothing is written. The sample is really embedded, asked and scored, so models are loaded. Where
this machine cannot do that, as it lacks vLLM, numbers and tokens are told all the same, and why
there is no time.
"""

import datetime
import functools
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.corpora.api_docs import collect
from data_prep.corpora.collection import collection_inputs
from data_prep.corpora.readers import read_passages
from data_prep.documents.prompt import load_document_prompt
from data_prep.documents.written import DocumentTask, num_tokens
from data_prep.llm import make_llm
from data_prep.llm.base import Request
from data_prep.pipeline.draws import draw
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.settings import EXTRACTIVE, HUMAN, HYBRID, LLM, query_sources, types_of
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.prompt import load_prompts, request_seed
from data_prep.queries.query import Query
from data_prep.retrieval.dense import DenseModel
from data_prep.retrieval.retrievers import retriever_sections
from data_prep.teachers import Pairs, make_teacher
from ldx.common.errors import UserError
from ldx.common.progress import progress_bar
from ldx.eval import beir
from ldx.records.schema import passage_text
from ldx.retrieval.encoder import Kind

SAMPLE_PASSAGES = 64
SAMPLE_PROMPTS = 16  # of all types together
SAMPLE_PAIRS = 64
CHARS_PER_TOKEN = 4.0  # of English, where no tokenizer tells
SAMPLE_QUERY = "what is known about this"
SAMPLE_QUERY_WORDS = 8


@dataclass(frozen=True)
class Cost:
    """What one part of a run costs.

    Attributes:
      stage: of data_prep.
      what: is done, such as `prompts of question`.
      number: how often.
      tokens: of all of them; 0 where none are counted.
      seconds: on this machine with this config; NaN where no sample was measured.
      problem: why none could be; "" where it was, or none is ever.
    """

    stage: str
    what: str
    number: int
    tokens: int
    seconds: float
    problem: str = ""


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus: its size, and a sample of texts as they are prepared."""

    num_passages: int
    sample: list[tuple[str, str]]  # doc_id and text


def survey(workspace: Workspace) -> Corpus:
    """Count the passages, and draw a sample by their doc_ids."""
    config = workspace.config
    template, max_chars = config.data.passage_template, config.data.max_chars
    number = 0
    drawn: list[tuple[float, str, str]] = []
    for doc_id, title, text in progress_bar(_texts(workspace), desc="passages", unit=" passages"):
        number += 1
        drawn.append((draw(config.seed, "dry run", doc_id), doc_id, title + "\0" + text))
        if len(drawn) >= 16 * SAMPLE_PASSAGES:
            drawn = sorted(drawn)[:SAMPLE_PASSAGES]
    sample = []
    for _, doc_id, both in sorted(drawn)[:SAMPLE_PASSAGES]:
        title, _, text = both.partition("\0")
        sample.append((doc_id, passage_text(title, text, template, max_chars)))
    return Corpus(number, sample)


def _texts(workspace: Workspace) -> Any:
    prep = workspace.settings
    if prep.collection == "api_docs":
        docs = collect(prep.packages, prep.max_passages).docstrings
        return ((doc.name, "", doc.body) for doc in docs)
    source = str(workspace.dataset) if prep.collection == "beir" else prep.collection
    passages = read_passages(source, reject=lambda *_: None)
    return ((p.doc_id, p.title, p.text) for _, p in passages)


def estimate(workspace: Workspace) -> list[Cost]:
    """The costs of all stages, in their order."""
    prep = workspace.settings
    collection_inputs(workspace)  # refuses what is no collection
    corpus = survey(workspace)
    costs = [Cost("corpus", "passages", corpus.num_passages, 0, float("nan"))]
    most = prep.max_source_passages
    held_out = min(prep.num_held_out, corpus.num_passages // 20)
    num_sources = corpus.num_passages - held_out
    num_sources = num_sources if most is None else min(most, num_sources)
    num_queries = 0
    sources = query_sources(prep.queries)
    if HUMAN in sources:
        qrels = beir.read_qrels(beir.find_qrels(workspace.dataset, prep.human_split))
        num_queries += len(qrels)
        costs.append(Cost("generate_queries", "human queries", len(qrels), 0, 0.0))
    if EXTRACTIVE in sources:
        number = num_sources * len(types_of(prep))
        num_queries += number
        costs.append(Cost("generate_queries", "extractive queries", number, 0, float("nan")))
    if LLM in sources:
        prompts = _prompt_costs(workspace, corpus, num_sources)
        num_queries += sum(cost.number for cost in prompts)
        costs += prompts
    if prep.max_queries is not None:
        num_queries = min(num_queries, prep.max_queries)
    stages = stages_of(prep)
    if "generate_documents" in stages:
        costs.append(_document_cost(workspace, corpus, num_queries))
    if "mine" in stages:
        costs += _mining_costs(workspace, corpus, num_queries)
    size = min(prep.candidate_depth, corpus.num_passages)
    size = size if prep.num_candidates is None else min(size, prep.num_candidates)
    if "score" in stages:
        costs += _teacher_costs(workspace, corpus, num_queries * size)
    lists = "lists of graded labels" if "grade" in stages else f"lists of {prep.list_size}"
    costs.append(Cost("write_tfrecords", f"{lists}, at most", num_queries, 0, 0))
    costs.append(Cost("all", "starts of a process", len(stages), 0, len(stages) * _start()))
    return costs


def _start() -> float:
    """Seconds until the process of a stage has imported what it needs."""
    command = [sys.executable, "-c", "import data_prep.mine"]
    return _timed(lambda: subprocess.run(command, check=False))


def _timed(work: Callable[[], Any]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _measured(measure: Callable[[], float]) -> tuple[float, str]:
    """What `measure` returns; or NaN, and why this machine cannot tell."""
    try:
        return measure(), ""
    except UserError as error:
        return float("nan"), str(error).splitlines()[0]


def _prompt_costs(workspace: Workspace, corpus: Corpus, num_sources: int) -> list[Cost]:
    """Prompts by type; all types share one measured rate."""
    config = workspace.config
    prompts = load_prompts(types_of(workspace.settings))
    requests: list[Request] = []
    tokens = {}
    for prompt in prompts:
        asked = [
            Request(
                prompt.messages(text, doc_id, config.seed),
                prompt.sampling,
                request_seed(config.seed, doc_id, prompt.query_type, 0),
            )
            for doc_id, text in corpus.sample
        ]
        chars = [sum(len(m["content"]) for m in request.messages) for request in asked]
        answer = prompt.sampling.max_tokens
        tokens[prompt.query_type] = float(np.mean(chars)) / CHARS_PER_TOKEN + answer
        requests += asked[: max(1, SAMPLE_PROMPTS // len(prompts))]
    seconds, problem = _measured(lambda: _seconds_of_a_request(workspace, requests))
    return [
        Cost(
            "generate_queries",
            f"prompts of {prompt.query_type}",
            num_sources,
            int(tokens[prompt.query_type] * num_sources),
            seconds * num_sources,
            problem,
        )
        for prompt in prompts
    ]


def _seconds_of_a_request(workspace: Workspace, requests: list[Request]) -> float:
    llm = make_llm(workspace.settings.llm)
    llm.generate(requests[:1])  # what is started and compiled at first
    seconds = _timed(lambda: llm.generate(requests)) / len(requests)
    llm.close()
    return seconds


def _sample_queries(corpus: Corpus) -> list[tuple[str, str]]:
    """The words that some passages begin with, which stand for queries; with their doc_ids."""
    return [(name, " ".join(text.split()[:SAMPLE_QUERY_WORDS])) for name, text in corpus.sample]


def _document_cost(workspace: Workspace, corpus: Corpus, num_queries: int) -> Cost:
    """Prompts for passages."""
    config = workspace.config
    prompt = load_document_prompt(workspace.settings.document_prompt)
    queries = _sample_queries(corpus)
    sample = [Query(name, "", text, -1, "", {}, "") for name, text in queries[:SAMPLE_PROMPTS]]
    task = DocumentTask(prompt, config.seed, "", sample)
    requests = task.requests(task.payload("", range(len(sample)), attempt=0))
    seconds, problem = _measured(lambda: _seconds_of_a_request(workspace, requests))
    tokens = int(num_tokens(prompt, queries, config.seed) * num_queries)
    what = "prompts for passages"
    return Cost("generate_documents", what, num_queries, tokens, seconds * num_queries, problem)


def _mining_costs(workspace: Workspace, corpus: Corpus, num_queries: int) -> list[Cost]:
    config = workspace.config
    sections = retriever_sections(workspace.settings.retrievers, config.model.to_dict())
    passages = [text for _, text in corpus.sample]
    queries = [text for _, text in _sample_queries(corpus)]
    costs = [Cost("mine", "queries", num_queries, 0, float("nan"))]
    for name, (kind, section) in sections.items():
        if kind != "dense":
            continue
        model, problem = None, ""
        try:
            model = DenseModel(name, section, config.train.microbatch_tokens)
        except UserError as error:
            problem = str(error).splitlines()[0]
        costs += [
            _embedding_cost(
                name, section, model, problem, "passage", passages, corpus.num_passages
            ),
            _embedding_cost(name, section, model, problem, "query", queries, num_queries),
        ]
    return costs


def _embedding_cost(
    name: str,
    section: dict[str, Any],
    model: DenseModel | None,
    problem: str,
    kind: Kind,
    sample: list[str],
    number: int,
) -> Cost:
    """Texts of a kind embedded by a retriever; where `model` is None, of `problem`, untimed."""
    seconds = float("nan")
    lengths = [int(len(text) / CHARS_PER_TOKEN) for text in sample]
    if model is not None:
        model.embed(sample, kind)
        seconds = _timed(functools.partial(model.embed, sample, kind)) / len(sample)
        lengths = model.num_tokens(sample)
    tokens = sum(min(n, section[f"{kind}_max_length"]) for n in lengths) / len(sample)
    what = f"{'passages' if kind == 'passage' else 'queries'} embedded by {name}"
    return Cost("mine", what, number, int(tokens * number), seconds * number, problem)


def _teacher_costs(workspace: Workspace, corpus: Corpus, num_pairs: int) -> list[Cost]:
    costs = []
    texts = list(itertools.islice(itertools.cycle(t for _, t in corpus.sample), SAMPLE_PAIRS))
    ids = [str(number) for number in range(len(texts))]
    pairs = Pairs(ids, [SAMPLE_QUERY] * len(texts), ids, texts)
    chars = float(np.mean([len(text) + len(SAMPLE_QUERY) for text in texts]))
    for name, section in workspace.settings.teachers.items():
        if section["kind"] in (HYBRID, "run_file"):
            costs.append(Cost("score", f"pairs of {name}", num_pairs, 0, 0.0))
            continue
        settings = {key: value for key, value in section.items() if key != "weight"}
        score = functools.partial(_seconds_of_a_pair, name, settings, pairs)
        seconds, problem = _measured(score)
        tokens, total = int(chars / CHARS_PER_TOKEN * num_pairs), seconds * num_pairs
        costs.append(Cost("score", f"pairs of {name}", num_pairs, tokens, total, problem))
    return costs


def _seconds_of_a_pair(name: str, settings: dict[str, Any], pairs: Pairs) -> float:
    teacher = make_teacher(name, settings)
    teacher.score(pairs)
    return _timed(lambda: teacher.score(pairs)) / len(pairs)


def render(costs: Sequence[Cost]) -> str:
    """A table for the screen."""
    head = ("stage", "what", "number", "tokens", "time")
    rows = [
        (
            cost.stage,
            cost.what,
            f"{cost.number:,}",
            f"{cost.tokens:,}" if cost.tokens else "",
            _duration(cost.seconds),
        )
        for cost in costs
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    total = np.nansum([cost.seconds for cost in costs])
    lines.append(
        f"about {_duration(total)} on this machine for what has a time, by a sample of "
        f"{SAMPLE_PASSAGES} passages. Not counted: what has none, compilation, and of the corpus "
        "its near-duplicates and BM25's index"
    )
    problems: dict[str, list[str]] = {}
    for cost in costs:
        if cost.problem:
            problems.setdefault(cost.problem, []).append(cost.what)
    lines += [f"no time for {', '.join(what)}: {problem}" for problem, what in problems.items()]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if np.isnan(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return str(datetime.timedelta(seconds=round(seconds)))
