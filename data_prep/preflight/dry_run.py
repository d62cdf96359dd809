"""The costs of a config: passages, prompts, tokens and pairs, and times measured on a small sample.

Nothing is written. The sample is really embedded, sent to the language model and scored, so models
are loaded. Where this machine cannot do that, for example because it lacks vLLM, the costs have
numbers and tokens all the same, and a problem that says why they have no time.
"""

import functools
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_prep.corpora.collection import collection_inputs
from data_prep.documents.prompt import load_document_prompt
from data_prep.documents.written import DocumentTask, num_tokens
from data_prep.llm import make_llm
from data_prep.llm.base import CHARS_PER_TOKEN, Request
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.settings import HYBRID, QueryOrigin, query_origins, types_of
from data_prep.pipeline.workspace import Workspace
from data_prep.preflight.costs import Cost
from data_prep.preflight.survey import Survey, survey_corpus
from data_prep.queries.log import clean_log
from data_prep.queries.prompt import load_prompts, request_seed
from data_prep.queries.query import Query
from data_prep.retrieval.retrievers import (
    RetrieverKind,
    RetrieverSection,
    dense_model,
    workspace_retrievers,
)
from data_prep.teachers import Pairs, make_teacher
from data_prep.teachers.scoring import without_weight
from ldx.common.errors import UserError
from ldx.eval import beir

if TYPE_CHECKING:
    from ldx.retrieval.encoder import Kind

SAMPLE_PROMPTS = 16  # of all types together
SAMPLE_PAIRS = 64
SAMPLE_QUERY = "what is known about this"
SAMPLE_QUERY_WORDS = 8


def estimate(workspace: Workspace) -> list[Cost]:
    """The costs of all stages, in their order."""
    prep = workspace.settings
    collection_inputs(workspace)  # raises where there is no collection
    survey = survey_corpus(workspace)
    costs = [Cost("corpus", "passages", survey.num_passages, 0, float("nan"))]
    held_out = min(prep.num_held_out, survey.num_passages // 20)
    num_with_queries = survey.num_passages - held_out
    if prep.max_source_passages is not None:
        num_with_queries = min(prep.max_source_passages, num_with_queries)
    num_queries = 0
    origins = query_origins(prep.queries)
    if QueryOrigin.HUMAN in origins:
        qrels = beir.read_qrels(beir.find_qrels(workspace.dataset, prep.human_split))
        num_queries += len(qrels)
        costs.append(Cost("generate_queries", "human queries", len(qrels), 0, 0.0))
    if QueryOrigin.LOG in origins:
        number = len(clean_log(workspace).entries)
        num_queries += number
        costs.append(Cost("generate_queries", "queries of the log", number, 0, 0.0))
    if QueryOrigin.EXTRACTIVE in origins:
        number = num_with_queries * len(types_of(prep))
        num_queries += number
        costs.append(Cost("generate_queries", "extractive queries", number, 0, float("nan")))
    if QueryOrigin.LLM in origins:
        prompts = _prompt_costs(workspace, survey, num_with_queries)
        num_queries += sum(cost.number for cost in prompts)
        costs += prompts
    if prep.max_queries is not None:
        num_queries = min(num_queries, prep.max_queries)
    stages = stages_of(prep)
    if "generate_documents" in stages:
        costs.append(_document_cost(workspace, survey, num_queries))
    if "mine" in stages:
        costs += _mining_costs(workspace, survey, num_queries)
    limits = [limit for limit in (prep.depth, prep.num_candidates) if limit is not None]
    num_candidates = min([*limits, survey.num_passages])
    if "score" in stages:
        costs += _teacher_costs(workspace, survey, num_queries * num_candidates)
    size = prep.list_size or "all that is scored"
    lists = "lists of graded labels" if "grade" in stages else f"lists of {size}"
    costs.append(Cost("write_tfrecords", f"{lists}, at most", num_queries, 0, 0))
    costs.append(Cost("all", "starts of a process", len(stages), 0, len(stages) * _start()))
    return costs


def _start() -> float:
    """The seconds that the process of a stage needs for its imports."""
    command = [sys.executable, "-c", "import data_prep.mine"]
    return _timed(lambda: subprocess.run(command, check=False))


def _timed(work: Callable[[], Any]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _first_line(error: UserError) -> str:
    return str(error).splitlines()[0]


class _Timing(NamedTuple):
    """The seconds that something takes; where they cannot be measured, NaN and the reason."""

    seconds: float
    problem: str


def _timing(measure: Callable[[], float]) -> _Timing:
    """The seconds that `measure` returns, or the reason why it cannot on this machine."""
    try:
        return _Timing(measure(), "")
    except UserError as error:
        return _Timing(float("nan"), _first_line(error))


def _prompt_costs(workspace: Workspace, survey: Survey, num_with_queries: int) -> list[Cost]:
    """The costs of prompts by query type; all types share one measured rate."""
    config = workspace.config
    prompts = load_prompts(types_of(workspace.settings))
    requests: list[Request] = []
    tokens = {}
    for prompt in prompts:
        of_type = [
            Request(
                prompt.messages(passage.text, passage.doc_id, config.seed),
                prompt.sampling,
                request_seed(config.seed, passage.doc_id, prompt.query_type, 0),
            )
            for passage in survey.sample
        ]
        chars = [sum(len(m["content"]) for m in request.messages) for request in of_type]
        answer = prompt.sampling.max_tokens
        tokens[prompt.query_type] = float(np.mean(chars)) / CHARS_PER_TOKEN + answer
        requests += of_type[: max(1, SAMPLE_PROMPTS // len(prompts))]
    timing = _timing(lambda: _seconds_of_a_request(workspace, requests))
    return [
        Cost(
            "generate_queries",
            f"prompts of {prompt.query_type}",
            num_with_queries,
            int(tokens[prompt.query_type] * num_with_queries),
            timing.seconds * num_with_queries,
            timing.problem,
        )
        for prompt in prompts
    ]


def _seconds_of_a_request(workspace: Workspace, requests: list[Request]) -> float:
    llm = make_llm(workspace.settings.llm)
    llm.generate(requests[:1])  # starts and compiles what later requests use
    seconds = _timed(lambda: llm.generate(requests)) / len(requests)
    llm.close()
    return seconds


def _sample_queries(survey: Survey) -> list[tuple[str, str]]:
    """Doc_ids of the sample, and the words that its passages begin with, in place of queries."""
    return [
        (passage.doc_id, " ".join(passage.text.split()[:SAMPLE_QUERY_WORDS]))
        for passage in survey.sample
    ]


def _document_cost(workspace: Workspace, survey: Survey, num_queries: int) -> Cost:
    """The cost of prompts for passages."""
    config = workspace.config
    prompt = load_document_prompt(workspace.settings.document_prompt)
    queries = _sample_queries(survey)
    sample = [Query(name, "", text, -1, "", {}, "") for name, text in queries[:SAMPLE_PROMPTS]]
    task = DocumentTask(prompt, config.seed, "", sample)
    requests = task.requests(task.payload("", range(len(sample)), attempt=0))
    timing = _timing(lambda: _seconds_of_a_request(workspace, requests))
    tokens = int(num_tokens(prompt, queries, config.seed) * num_queries)
    return Cost(
        "generate_documents",
        "prompts for passages",
        num_queries,
        tokens,
        timing.seconds * num_queries,
        timing.problem,
    )


def _mining_costs(workspace: Workspace, survey: Survey, num_queries: int) -> list[Cost]:
    costs = [Cost("mine", "queries", num_queries, 0, float("nan"))]
    for name, section in workspace_retrievers(workspace).items():
        if section.kind is RetrieverKind.DENSE:
            costs += _embedding_costs(workspace, name, section, survey, num_queries)
    return costs


def _embedding_costs(
    workspace: Workspace, name: str, section: RetrieverSection, survey: Survey, num_queries: int
) -> list[Cost]:
    """The costs of embedding, without a time where the retriever's model cannot be loaded."""
    model, problem = None, ""
    try:
        model = dense_model(workspace, name, keeps_embeddings=False)
    except UserError as error:
        problem = _first_line(error)

    def cost(kind: "Kind", sample: list[str], number: int, what: str) -> Cost:
        seconds = float("nan")
        lengths = [int(len(text) / CHARS_PER_TOKEN) for text in sample]
        if model is not None:
            model.embed(sample, kind)
            seconds = _timed(lambda: model.embed(sample, kind)) / len(sample)
            lengths = model.num_tokens(sample)
        longest = section.settings[f"{kind}_max_length"]
        tokens = sum(min(length, longest) for length in lengths) / len(sample)
        what = f"{what} embedded by {name}"
        return Cost("mine", what, number, int(tokens * number), seconds * number, problem)

    queries = [text for _, text in _sample_queries(survey)]
    return [
        cost("passage", survey.texts, survey.num_passages, "passages"),
        cost("query", queries, num_queries, "queries"),
    ]


def _teacher_costs(workspace: Workspace, survey: Survey, num_pairs: int) -> list[Cost]:
    costs = []
    texts = list(itertools.islice(itertools.cycle(survey.texts), SAMPLE_PAIRS))
    ids = [str(number) for number in range(len(texts))]
    pairs = Pairs(ids, [SAMPLE_QUERY] * len(texts), ids, texts)
    chars = float(np.mean([len(text) + len(SAMPLE_QUERY) for text in texts]))
    for name, section in workspace.settings.teachers.items():
        if section["kind"] in (HYBRID, "run_file"):
            costs.append(Cost("score", f"pairs of {name}", num_pairs, 0, 0.0))
            continue
        settings = without_weight(section)
        timing = _timing(functools.partial(_seconds_of_a_pair, name, settings, pairs))
        tokens, seconds = int(chars / CHARS_PER_TOKEN * num_pairs), timing.seconds * num_pairs
        costs.append(Cost("score", f"pairs of {name}", num_pairs, tokens, seconds, timing.problem))
    return costs


def _seconds_of_a_pair(name: str, settings: dict[str, Any], pairs: Pairs) -> float:
    teacher = make_teacher(name, settings)
    teacher.score(pairs)
    return _timed(lambda: teacher.score(pairs)) / len(pairs)
