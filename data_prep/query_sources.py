"""Where training queries come from: cut out of passages, written by a language model, or by people.

Answers are shards of WORKDIR/prep/answers: what a generator gave for a passage, before anything is
dropped, so that new rules for what is a query need no new answer.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.answers import clean
from data_prep.engine import LocalEngine
from data_prep.llm import Answer, LlmConfig, Request, llm_fingerprint, make_llm
from data_prep.passages import Passages, doc_ids_where
from data_prep.prompts import Prompt, load_prompts, request_seed
from data_prep.queries import Query
from data_prep.ray_engine import RayEngine
from data_prep.ray_generation import RayGeneration
from data_prep.settings import HUMAN
from data_prep.shards import (
    Engine,
    Made,
    Payload,
    Shard,
    ShardFolder,
    check_rejects,
    json_lines,
    read_json_lines,
    shard_key,
)
from data_prep.stage import Workspace
from ldx.data.records import PassageSource
from ldx.errors import UserError
from ldx.eval import beir
from ldx.settings import build

if TYPE_CHECKING:
    from data_prep.bm25 import Bm25

VERSION = 1
"""Raised when the same passage gives another extractive answer than before."""


def extractive_queries(
    workspace: Workspace, passages: Passages, rows: np.ndarray, engine: Engine
) -> Iterator[Query]:
    """One query of each extractive type for each passage; its text may be empty.

    Raises:
      UserError: a type is unknown, or there is none.
    """
    # They bring numba, beside which vLLM does not start on a CPU.
    from data_prep.bm25 import Bm25
    from data_prep.extractive import TYPES

    config, types = workspace.config, tuple(workspace.config.prep.query_types)
    unknown = [name for name in types if name not in TYPES]
    if unknown or not types:
        raise UserError(
            f"config.prep.query_types={types}: of extractive queries known are {', '.join(TYPES)}"
        )
    folder = ShardFolder(workspace.prep / "answers", ".jsonl")
    index = Bm25.open_or_build(workspace.prep / "bm25", passages.texts, key=passages.key)
    make_worker = functools.partial(_Extracting, index, config.seed)
    for query_type in types:
        key = f"extractive {VERSION} {config.seed} {passages.key}"
        shards = _shards(workspace, passages, rows, query_type, key, config.prep.shard_size)
        paths = folder.make(make_worker, shards, engine, description=query_type, unit="passages")
        for path in paths:
            for answer in read_json_lines(path):
                yield Query(
                    f"{answer['doc_id']}:{query_type}",
                    query_type,
                    answer["text"],
                    answer["row"],
                    answer["excerpt"],
                    {},
                    answer["doc_id"],
                )


class _Extracting:
    def __init__(self, index: "Bm25", seed: int):
        from data_prep.extractive import Extractor

        self._extractor = Extractor(index.rarity, seed)

    def __call__(self, payload: Payload) -> Made:
        lines = []
        for row, doc_id, passage in _passages_of(payload):
            text, excerpt = self._extractor.make(payload["query_type"], doc_id, passage)
            lines.append({"row": row, "doc_id": doc_id, "text": text, "excerpt": excerpt})
        return Made(json_lines(lines))


def _passages_of(payload: Payload) -> Iterator[tuple[int, str, str]]:
    return zip(payload["rows"], payload["doc_ids"], payload["passages"], strict=True)


def _shards(
    workspace: Workspace,
    passages: Passages,
    rows: np.ndarray,
    query_type: str,
    key: str,
    size: int,
    suffix: str = "",
) -> list[Shard]:
    """Shards of passages that are asked for a query of a type; `suffix` ends their names."""
    source = PassageSource(workspace.records)

    def payload(some: np.ndarray) -> Payload:
        return {
            "query_type": query_type,
            "rows": some.tolist(),
            "doc_ids": [source[row].doc_id for row in some.tolist()],
            "passages": [passages.texts[row] for row in some.tolist()],
        }

    return [
        Shard(
            f"{query_type}-{start // size:05d}{suffix}",
            shard_key(key, passages.key, query_type, rows[start : start + size].tobytes()),
            len(rows[start : start + size]),
            functools.partial(payload, rows[start : start + size]),
        )
        for start in range(0, len(rows), size)
    ]


@dataclass(frozen=True)
class Questions:
    """What is asked for the queries of a shard of passages, and what is kept of the answers."""

    prompts: Mapping[str, Prompt]
    seed: int

    def requests(self, payload: Payload) -> list[Request]:
        """One for each passage of `payload`."""
        prompt, attempt = self.prompts[payload["query_type"]], payload["attempt"]
        return [
            Request(
                prompt.messages(passage, doc_id, self.seed),
                prompt.sampling,
                request_seed(self.seed, doc_id, prompt.query_type, attempt),
            )
            for _, doc_id, passage in _passages_of(payload)
        ]

    def made(self, payload: Payload, answers: Sequence[Answer]) -> Made:
        """The answers, a JSON object a line; requests that failed are rejects too."""
        lines, rejects = [], []
        for (row, doc_id, _), answer in zip(_passages_of(payload), answers, strict=True):
            lines.append({"row": row, "doc_id": doc_id, **vars(answer)})
            if answer.error:
                rejects.append({"id": f"{doc_id} {payload['query_type']}", "reason": answer.error})
        return Made(json_lines(lines), rejects)


class Asking:
    """Asks a language model for the queries of one shard of passages after another."""

    def __init__(self, config: LlmConfig, questions: Questions):
        self._llm, self._questions = make_llm(config), questions

    def __call__(self, payload: Payload) -> Made:
        """The answers for `payload`."""
        answers = self._llm.generate(self._questions.requests(payload))
        return self._questions.made(payload, answers)


def llm_queries(
    workspace: Workspace,
    passages: Passages,
    rows: np.ndarray,
    engine: Engine,
    dropped: Counter[str],
) -> Iterator[Query]:
    """One query of each prompt for each passage; a bad answer is asked for again.

    Args:
      dropped: counts the bad answers by reason, and passages that gave none in the end.
    """
    config, prep = workspace.config, workspace.config.prep
    llm = build(LlmConfig, prep.llm.to_dict(), "prep.llm")
    prompts = {prompt.query_type: prompt for prompt in load_prompts(prep.query_types)}
    questions = Questions(prompts, config.seed)
    make_worker: Callable[[], Asking] = functools.partial(Asking, llm, questions)
    if isinstance(engine, LocalEngine):
        make_worker = functools.cache(make_worker)  # one model for all types and attempts
    if isinstance(engine, RayEngine) and llm.backend == "vllm":
        engine = RayGeneration(engine, llm, questions)
    folder = ShardFolder(workspace.prep / "answers", ".jsonl")
    for query_type, prompt in prompts.items():
        key = f"{prompt.fingerprint} {llm_fingerprint(llm)} {config.seed}"
        left = rows
        for attempt in range(prep.max_attempts):
            shards = [
                Shard(s.name, s.key, s.num_units, functools.partial(_with_attempt, s, attempt))
                for s in _shards(
                    workspace,
                    passages,
                    left,
                    query_type,
                    f"{key} {attempt}",
                    prep.shard_size,
                    f"-again-{attempt}" if attempt else "",
                )
            ]
            paths = folder.make(
                make_worker,
                shards,
                engine,
                num_workers=_num_threads(llm, prep.shard_size),
                description=query_type if not attempt else f"{query_type}, again",
                unit="passages",
            )
            rejects = folder.rejects(shards)
            check_rejects(query_type, rejects, len(rows), prep.max_rejects, folder.folder)
            bad = []
            for path in paths:
                for answer in read_json_lines(path):
                    query, reason = _cleaned(answer, prompt, passages)
                    if reason:
                        dropped[f"{query_type}: {reason}"] += 1
                        bad.append(answer["row"])
                        continue
                    yield Query(
                        f"{answer['doc_id']}:{query_type}",
                        query_type,
                        query,
                        answer["row"],
                        "",
                        {},
                        answer["doc_id"],
                    )
            left = np.array(bad, np.int64)
            if not bad:
                break
        dropped[f"{query_type}: no good answer in {prep.max_attempts} attempts"] += len(left)


def _with_attempt(shard: Shard, attempt: int) -> Payload:
    return {**shard.payload(), "attempt": attempt}


def _cleaned(answer: Mapping[str, Any], prompt: Prompt, passages: Passages) -> tuple[str, str]:
    if answer["error"]:
        return "", "request failed"
    passage = passages.texts[answer["row"]]
    return clean(answer["text"], prompt, passage, answer["finish_reason"])


def _num_threads(llm: LlmConfig, shard_size: int) -> int:
    """As many shards at once as keep a server busy; one for an engine in this process."""
    return 1 if llm.backend == "vllm" else 1 + -(-llm.concurrency // shard_size)


def human_queries(
    workspace: Workspace, excluded: np.ndarray, dropped: Counter[str]
) -> Iterator[Query]:
    """The judged queries of config.prep.human_split; held-out passages are left out.

    Args:
      excluded: bool [N], passages that are in nobody's list.
      dropped: counts the queries that have no relevant passage left.
    """
    split = workspace.config.prep.human_split
    qrels = beir.read_qrels(beir.find_qrels(workspace.dataset, split))
    texts = beir.read_queries(workspace.dataset)
    judged = {doc_id for grades in qrels.values() for doc_id, grade in grades.items() if grade > 0}
    found = doc_ids_where(workspace.records, judged)
    row_of = {doc_id: row for row, doc_id in found if not excluded[row]}
    for query_id, grades in qrels.items():
        if query_id not in texts:
            dropped["human: not in the queries file"] += 1
            continue
        relevant = {row_of[d]: g for d, g in grades.items() if g > 0 and d in row_of}
        if not relevant:
            dropped["human: no relevant passage"] += 1
            continue
        best = max(relevant.values())
        first = min(row for row, grade in relevant.items() if grade == best)
        group = next(d for d in grades if row_of.get(d) == first)
        yield Query(query_id, HUMAN, texts[query_id], -1, "", relevant, group)


def prompt_facts(workspace: Workspace) -> dict[str, Any]:
    """What the manifest tells of prompts: the model, and of each its version, hash and sampling."""
    prep: Any = workspace.config.prep
    prompts = load_prompts(prep.query_types)
    shown: Sequence[Prompt] = prompts
    return {
        "model": prep.llm.model,
        "backend": prep.llm.backend,
        **{
            prompt.query_type: {
                "version": prompt.version,
                "fingerprint": prompt.fingerprint,
                "language": prompt.language,
                **vars(prompt.sampling),
            }
            for prompt in shown
        },
    }
