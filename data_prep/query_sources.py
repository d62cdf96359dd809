"""Where training queries come from: cut out of passages, written by a language model, or by people.

Answers are shards of WORKDIR/prep/answers: what a generator gave for a passage, before anything is
dropped, so that new rules for what is a query need no new answer.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.answers import clean
from data_prep.bm25 import Bm25
from data_prep.engine import LocalEngine
from data_prep.extractive import TYPES, Extractor
from data_prep.llm import Answer, LlmConfig, Request, llm_fingerprint, make_llm
from data_prep.passages import Passages, Roles, doc_ids_where
from data_prep.prompts import Prompt, load_prompts, request_seed
from data_prep.queries import Query
from data_prep.ray_engine import RayEngine
from data_prep.ray_generation import RayGeneration
from data_prep.settings import HUMAN, types_of
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

VERSION = 1
"""Raised when the same passage gives another extractive answer than before."""

REQUEST_FAILED = "request failed"


def extractive_queries(
    workspace: Workspace, passages: Passages, rows: np.ndarray, engine: Engine
) -> Iterator[Query]:
    """One query of each extractive type for each passage; its text may be empty.

    Raises:
      UserError: a type is unknown, or there is none.
    """
    config, types = workspace.config, types_of(workspace.config.prep)
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
    def __init__(self, index: Bm25, seed: int):
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
        rows = zip(_passages_of(payload), payload["asked"], answers, strict=True)
        for (_, doc_id, _), asked, answer in rows:
            lines.append({"asked": asked, "doc_id": doc_id, **vars(answer)})
            if answer.error:
                rejects.append({"id": f"{doc_id} {payload['query_type']}", "reason": answer.error})
        return Made(json_lines(lines), rejects, len(lines))


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
    prompts = {prompt.query_type: prompt for prompt in load_prompts(types_of(prep))}
    questions = Questions(prompts, config.seed)
    make_worker: Callable[[], Asking] = functools.partial(Asking, llm, questions)
    if isinstance(engine, LocalEngine):
        make_worker = functools.cache(make_worker)  # one model for all types and attempts
    if isinstance(engine, RayEngine) and llm.backend == "vllm":
        engine = RayGeneration(engine, llm, questions)
    asker = _Asker(workspace, passages, engine, make_worker, _num_threads(llm, prep.shard_size))
    keys = {
        query_type: f"{prompt.fingerprint} {llm_fingerprint(llm)} {config.seed}"
        for query_type, prompt in prompts.items()
    }
    left = dict.fromkeys(prompts, rows)
    for attempt in range(prep.max_attempts):
        # All types together: an engine that loads its model for each call loads it once.
        answers = asker.answers(left, attempt, keys)
        bad: dict[str, list[int]] = {query_type: [] for query_type in prompts}
        for query_type, row, answer in answers:
            query, reason = _cleaned(answer, prompts[query_type], passages.texts[row])
            if not reason:
                doc_id = answer["doc_id"]
                yield Query(f"{doc_id}:{query_type}", query_type, query, row, "", {}, doc_id)
                continue
            dropped[f"{query_type}: {reason}"] += 1
            if reason != REQUEST_FAILED:  # which it would again
                bad[query_type].append(row)
        left = {name: np.array(some, np.int64) for name, some in bad.items() if some}
        if not left:
            break
    for query_type, some in left.items():
        dropped[f"{query_type}: no good answer in {prep.max_attempts} attempts"] += len(some)


@dataclass(frozen=True)
class _Asker:
    """Asks what was not asked before, whatever shard the answer lies in."""

    workspace: Workspace
    passages: Passages
    engine: Engine
    make_worker: Callable[[], Asking]
    num_workers: int

    def answers(
        self, rows: Mapping[str, np.ndarray], attempt: int, keys: Mapping[str, str]
    ) -> list[tuple[str, int, dict[str, Any]]]:
        """Query type, row and answer for each passage.

        Args:
          rows: passages that are asked for a query, by its type.
          attempt: which of them, from 0.
          keys: what decides an answer but the passage and the attempt, by type.
        """
        prep = self.workspace.config.prep
        folder = ShardFolder(self.workspace.prep / "answers", ".jsonl")
        asked = {name: self._asked(some, f"{keys[name]} {attempt}") for name, some in rows.items()}
        found: dict[str, dict[str, Any]] = {}
        shards: list[Shard] = []
        for name, ids in asked.items():
            found |= _known_answers(folder, name, set(ids.values()))
            missing = {row: one for row, one in ids.items() if one not in found}
            shards += self._shards(name, missing, attempt)
        paths = folder.make(
            self.make_worker,
            shards,
            self.engine,
            num_workers=self.num_workers,
            description=f"queries, again ({attempt})" if attempt else "queries",
            unit="queries",
        )
        found |= {line["asked"]: line for path in paths for line in read_json_lines(path)}
        answers = [
            (name, row, found[one]) for name, ids in asked.items() for row, one in ids.items()
        ]
        rejects = [
            {"id": f"{line['doc_id']} {name}", "reason": line["error"]}
            for name, _, line in answers
            if line["error"]
        ]
        num_asked = len(rows) * int(self.passages.roles.source.sum())
        check_rejects("queries", {folder.folder: rejects}, num_asked, prep.max_rejects)
        return answers

    def _asked(self, rows: np.ndarray, key: str) -> dict[int, str]:
        """What stands for one request, by row."""
        source = PassageSource(self.workspace.records)
        texts = self.passages.texts
        return {row: shard_key(key, source[row].doc_id, texts[row]) for row in rows.tolist()}

    def _shards(self, query_type: str, asked: Mapping[int, str], attempt: int) -> list[Shard]:
        size = self.workspace.config.prep.shard_size
        suffix = f"-again-{attempt}" if attempt else ""
        rows, ids = np.array(list(asked), np.int64), list(asked.values())
        shards = []
        for number, shard in enumerate(
            _shards(self.workspace, self.passages, rows, query_type, "", size, suffix)
        ):
            some = ids[number * size : (number + 1) * size]
            payload = functools.partial(_asking_payload, shard, attempt, some)
            shards.append(Shard(shard.name, shard_key(*some), len(some), payload))
        return shards


def _known_answers(
    folder: ShardFolder, query_type: str, wanted: set[str]
) -> dict[str, dict[str, Any]]:
    """Answers of earlier runs, by what was asked."""
    paths = sorted(folder.folder.glob(f"{query_type}-*.jsonl"))
    lines = (line for path in paths if folder.is_sound(path) for line in read_json_lines(path))
    return {line["asked"]: line for line in lines if line.get("asked") in wanted}


def _asking_payload(shard: Shard, attempt: int, asked: list[str]) -> Payload:
    return {**shard.payload(), "attempt": attempt, "asked": asked}


def _cleaned(answer: Mapping[str, Any], prompt: Prompt, passage: str) -> tuple[str, str]:
    if answer["error"]:
        return "", REQUEST_FAILED
    return clean(answer["text"], prompt, passage, answer["finish_reason"])


def _num_threads(llm: LlmConfig, shard_size: int) -> int:
    """As many shards at once as keep a server busy; one for an engine in this process."""
    return 1 if llm.backend == "vllm" else 1 + -(-llm.concurrency // shard_size)


def human_queries(workspace: Workspace, roles: Roles, dropped: Counter[str]) -> Iterator[Query]:
    """The judged queries of config.prep.human_split.

    Held-out passages are left out; a near-duplicate stands for the passage that holds it.

    Args:
      roles: of the passages.
      dropped: counts the queries that have no relevant passage left.
    """
    split = workspace.config.prep.human_split
    qrels = beir.read_qrels(beir.find_qrels(workspace.dataset, split))
    texts = beir.read_queries(workspace.dataset)
    judged = {doc_id for grades in qrels.values() for doc_id, grade in grades.items() if grade > 0}
    found = doc_ids_where(workspace.records, judged)
    held_by = {
        doc_id: int(roles.container[row]) if roles.duplicate[row] else row for row, doc_id in found
    }
    row_of = {d: row for d, row in held_by.items() if row >= 0 and not roles.held_out[row]}
    for query_id, grades in qrels.items():
        if query_id not in texts:
            dropped["human: not in the queries file"] += 1
            continue
        relevant: dict[int, int] = {}
        for doc_id, grade in grades.items():
            if grade > 0 and doc_id in row_of:
                row = row_of[doc_id]
                relevant[row] = max(grade, relevant.get(row, 0))
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
    prompts = load_prompts(types_of(prep))
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
