"""Asking a language model for many things: no request is sent twice, and bad answers are replaced.

Answers are kept in the shards of a folder as the model gave them, before any is dropped, so that
new rules for good answers cost no new requests. Each answer holds the key of its request, and is
used again wherever the same request comes up, in whatever shard.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

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
from data_prep.llm.ray_vllm import RayGeneration
from data_prep.llm.task import LlmTask
from data_prep.pipeline.llm_settings import Backend, LlmConfig
from data_prep.pipeline.workspace import Workspace

REQUEST_FAILED = "request failed"

T = TypeVar("T")


class Asking:
    """A worker that asks a language model for the answers of one shard after another."""

    def __init__(self, config: LlmConfig, task: LlmTask[Any]):
        self._llm, self._task = make_llm(config), task

    def __call__(self, payload: Payload) -> Made:
        """The content of the shard with the answers to the requests of `payload`."""
        answers = self._llm.generate(self._task.requests(payload))
        return self._task.made(payload, answers)


@dataclass(frozen=True)
class GoodAnswer(Generic[T]):
    """A good answer.

    Attributes:
      group: the group of the thing that was asked for.
      number: the number of that thing in its group.
      line: the answer as the model gave it, a line of a shard.
      value: what the task made of the answer.
    """

    group: str
    number: int
    line: Mapping[str, Any]
    value: T


@dataclass(frozen=True)
class Answers(Generic[T]):
    """The result of a task.

    Attributes:
      good: the good answers, at most one for each thing that was asked for.
      dropped: how many answers were bad, by group and reason, and how many things got no good
        answer in the end.
    """

    good: list[GoodAnswer[T]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class Asker(Generic[T]):
    """Carries out a task for a language model with the settings of a workspace.

    Args:
      workspace: the workspace whose `config.prep.llm` names the model.
      engine: the engine that sends the requests.
      folder: the folder where the answers are kept.
      task: the task that says what is asked for.
    """

    def __init__(self, workspace: Workspace, engine: Engine, folder: Path, task: LlmTask[T]):
        self._prep, self._task = workspace.settings, task
        llm = self._prep.llm
        self._folder = ShardFolder(folder, ".jsonl")
        self._make_worker: Callable[[], Asking] = functools.partial(Asking, llm, task)
        if isinstance(engine, LocalEngine):
            # One model for all groups and attempts.
            self._make_worker = functools.cache(self._make_worker)
        if isinstance(engine, RayEngine) and llm.backend == Backend.VLLM:
            engine = RayGeneration(engine, llm, task)
        self._engine = engine
        # A server gets as many shards at once as keep it busy; an engine in this process gets one.
        threads = 1 + -(-llm.concurrency // self._prep.shard_size)
        self._num_workers = 1 if llm.backend == Backend.VLLM else threads

    def ask(self) -> Answers[T]:
        """Ask for everything, and again after bad answers, `prep.max_attempts` times in all.

        Raises:
          UserError: too many requests failed, or the model gives no answers at all.
        """
        answers = Answers[T]()
        pending = {name: list(numbers) for name, numbers in self._task.groups.items()}
        for attempt in range(self._prep.max_attempts):
            # All groups go in one call, since some engines load their model for each call.
            lines = self._lines(pending, attempt)
            pending = {name: [] for name in pending}
            for group, number, line in lines:
                if line["error"]:  # the request would fail again
                    answers.dropped[f"{group}: {REQUEST_FAILED}"] += 1
                    continue
                value, reason = self._task.judge(group, number, line)
                if reason:
                    answers.dropped[f"{group}: {reason}"] += 1
                    pending[group].append(number)
                else:
                    answers.good.append(GoodAnswer(group, number, line, value))
            pending = {name: numbers for name, numbers in pending.items() if numbers}
            if not pending:
                break
        for group, numbers in pending.items():
            reason = f"no good answer in {self._prep.max_attempts} attempts"
            answers.dropped[f"{group}: {reason}"] += len(numbers)
        return answers

    def _lines(
        self, left: Mapping[str, list[int]], attempt: int
    ) -> list[tuple[str, int, dict[str, Any]]]:
        """The group, number and answer of everything that has no good answer yet."""
        task = self._task
        keys = {
            group: {number: task.key(group, number, attempt) for number in numbers}
            for group, numbers in left.items()
        }
        line_of: dict[str, dict[str, Any]] = {}
        shards: list[Shard] = []
        for group, of_group in keys.items():
            line_of |= self._known(group, set(of_group.values()))
            missing = {number: key for number, key in of_group.items() if key not in line_of}
            shards += self._shards(group, missing, attempt)
        paths = self._folder.make(
            self._make_worker,
            shards,
            self._engine,
            num_workers=self._num_workers,
            description=f"{task.what}, again ({attempt})" if attempt else task.what,
            unit=task.what,
        )
        line_of |= {line["asked"]: line for path in paths for line in read_json_lines(path)}
        lines = [
            (group, number, line_of[key])
            for group, of_group in keys.items()
            for number, key in of_group.items()
        ]
        rejects = [
            {"id": task.name(group, line[task.id_key]), "reason": line["error"]}
            for group, _, line in lines
            if line["error"]
        ]
        check_rejects(
            task.what,
            {self._folder.folder: rejects},
            task.total,
            self._prep.max_rejects,
            advice="Then delete the files there that have lines with an error, and run the same "
            "command again, which asks for these answers anew.",
        )
        return lines

    def _shards(self, group: str, keys: Mapping[int, str], attempt: int) -> list[Shard]:
        size, numbers = self._prep.shard_size, list(keys)
        suffix = f"-again-{attempt}" if attempt else ""
        shards = []
        for start in range(0, len(numbers), size):
            of_shard = numbers[start : start + size]
            shard_keys = [keys[number] for number in of_shard]
            payload = functools.partial(_payload, self._task, group, of_shard, attempt, shard_keys)
            name = f"{group}-{start // size:05d}{suffix}"
            shards.append(Shard(name, shard_key(*shard_keys), len(of_shard), payload))
        return shards

    def _known(self, group: str, keys: set[str]) -> dict[str, dict[str, Any]]:
        """Answers that earlier runs left, by the key of their request."""
        paths = sorted(self._folder.folder.glob(f"{group}-*.jsonl"))
        sound = (path for path in paths if self._folder.is_sound(path))
        lines = (line for path in sound for line in read_json_lines(path))
        return {line["asked"]: line for line in lines if line.get("asked") in keys}


def _payload(
    task: LlmTask[Any], group: str, numbers: list[int], attempt: int, keys: list[str]
) -> Payload:
    return {**task.payload(group, numbers, attempt), "group": group, "asked": keys}
