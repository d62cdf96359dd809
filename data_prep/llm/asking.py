"""Asking a language model for many things: nothing twice, and bad answers again.

Answers are shards of a folder, as the model gave them, before anything is dropped: new rules for
what is a good answer need no new one. Each tells what it answers, and serves again wherever the
same is asked, whatever shard that is in.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_prep.engines.local import LocalEngine
from data_prep.engines.ray import RayEngine
from data_prep.engines.shards import (
    Engine,
    Made,
    Payload,
    Shard,
    ShardFolder,
    check_rejects,
    read_json_lines,
    shard_key,
)
from data_prep.llm import make_llm
from data_prep.llm.base import Questions
from data_prep.llm.ray_vllm import RayGeneration
from data_prep.pipeline.llm_settings import LlmConfig
from data_prep.pipeline.workspace import Workspace

REQUEST_FAILED = "request failed"

T = TypeVar("T")


class Asking:
    """Asks a language model what is wanted for one shard after another."""

    def __init__(self, config: LlmConfig, questions: Questions):
        self._llm, self._questions = make_llm(config), questions

    def __call__(self, payload: Payload) -> Made:
        """The answers for `payload`."""
        answers = self._llm.generate(self._questions.requests(payload))
        return self._questions.made(payload, answers)


@dataclass(frozen=True)
class Wanted:
    """What is asked for, in groups such as query types; things have numbers, such as rows.

    Attributes:
      what: tells the user, such as `queries`.
      groups: the numbers of each group; its name begins the names of its shards.
      key: what decides an answer, as a hash, by group, number and attempt.
      payload: what `Questions` needs, by group, numbers and attempt; `asked`, the keys, is added.
      name: of one thing, for rejects, by group and a line of the answers.
      total: things of the whole job, of which some share may fail.
    """

    what: str
    groups: Mapping[str, Sequence[int]]
    key: Callable[[str, int, int], str]
    payload: Callable[[str, list[int], int], Payload]
    name: Callable[[str, Mapping[str, Any]], str]
    total: int


class Asker:
    """Asks for what is wanted, with the settings of a workspace.

    Args:
      workspace: its `config.prep.llm` is asked.
      engine: where that is done.
      folder: where the answers are kept.
      questions: what is asked.
    """

    def __init__(self, workspace: Workspace, engine: Engine, folder: Path, questions: Questions):
        self._prep = workspace.settings
        llm = self._prep.llm
        self._folder = ShardFolder(folder, ".jsonl")
        self._make_worker: Callable[[], Asking] = functools.partial(Asking, llm, questions)
        if isinstance(engine, LocalEngine):
            # One model for all groups and attempts.
            self._make_worker = functools.cache(self._make_worker)
        if isinstance(engine, RayEngine) and llm.backend == "vllm":
            engine = RayGeneration(engine, llm, questions)
        self._engine = engine
        # As many shards at once as keep a server busy; one for an engine in this process.
        threads = 1 + -(-llm.concurrency // self._prep.shard_size)
        self._num_workers = 1 if llm.backend == "vllm" else threads

    def ask(
        self,
        wanted: Wanted,
        judge: Callable[[str, int, Mapping[str, Any]], tuple[T, str]],
        dropped: Counter[str],
    ) -> Iterator[tuple[str, int, Mapping[str, Any], T]]:
        """Group, number, answer and what was made of it, for everything that got a good one.

        Args:
          wanted: what is asked for; a bad answer is asked for again, `prep.max_attempts` times in
            all.
          judge: makes something of an answer, or tells why it is bad ("": it is good).
          dropped: counts the bad answers by reason, and what got no good one in the end.

        Raises:
          UserError: too many requests failed, or nothing can be had of the model.
        """
        left = {name: list(numbers) for name, numbers in wanted.groups.items()}
        for attempt in range(self._prep.max_attempts):
            # All groups together: an engine that loads its model for each call loads it once.
            answers = self._answers(wanted, left, attempt)
            left = {name: [] for name in left}
            for group, number, answer in answers:
                if answer["error"]:  # which it would again
                    dropped[f"{group}: {REQUEST_FAILED}"] += 1
                    continue
                value, reason = judge(group, number, answer)
                if not reason:
                    yield group, number, answer, value
                    continue
                dropped[f"{group}: {reason}"] += 1
                left[group].append(number)
            left = {name: some for name, some in left.items() if some}
            if not left:
                break
        for group, some in left.items():
            dropped[f"{group}: no good answer in {self._prep.max_attempts} attempts"] += len(some)

    def _answers(
        self, wanted: Wanted, left: Mapping[str, list[int]], attempt: int
    ) -> list[tuple[str, int, dict[str, Any]]]:
        """Group, number and answer of everything that is left."""
        keys = {
            group: {number: wanted.key(group, number, attempt) for number in numbers}
            for group, numbers in left.items()
        }
        found: dict[str, dict[str, Any]] = {}
        shards: list[Shard] = []
        for group, of_group in keys.items():
            found |= self._known(group, set(of_group.values()))
            missing = {number: key for number, key in of_group.items() if key not in found}
            shards += self._shards(wanted, group, missing, attempt)
        paths = self._folder.make(
            self._make_worker,
            shards,
            self._engine,
            num_workers=self._num_workers,
            description=f"{wanted.what}, again ({attempt})" if attempt else wanted.what,
            unit=wanted.what,
        )
        found |= {line["asked"]: line for path in paths for line in read_json_lines(path)}
        answers = [
            (group, number, found[key])
            for group, of_group in keys.items()
            for number, key in of_group.items()
        ]
        rejects = [
            {"id": wanted.name(group, line), "reason": line["error"]}
            for group, _, line in answers
            if line["error"]
        ]
        most = self._prep.max_rejects
        check_rejects(wanted.what, {self._folder.folder: rejects}, wanted.total, most)
        return answers

    def _shards(
        self, wanted: Wanted, group: str, keys: Mapping[int, str], attempt: int
    ) -> list[Shard]:
        size, numbers = self._prep.shard_size, list(keys)
        suffix = f"-again-{attempt}" if attempt else ""
        shards = []
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            asked = [keys[number] for number in some]
            payload = functools.partial(_payload, wanted, group, some, attempt, asked)
            name = f"{group}-{start // size:05d}{suffix}"
            shards.append(Shard(name, shard_key(*asked), len(some), payload))
        return shards

    def _known(self, group: str, wanted: set[str]) -> dict[str, dict[str, Any]]:
        """Answers of earlier runs, by what was asked."""
        paths = sorted(self._folder.folder.glob(f"{group}-*.jsonl"))
        sound = (path for path in paths if self._folder.is_sound(path))
        lines = (line for path in sound for line in read_json_lines(path))
        return {line["asked"]: line for line in lines if line.get("asked") in wanted}


def _payload(
    wanted: Wanted, group: str, numbers: list[int], attempt: int, asked: list[str]
) -> Payload:
    return {**wanted.payload(group, numbers, attempt), "asked": asked}
