"""A task for a language model: what the model is asked for, and what becomes of its answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from data_prep.engines.shards import Made, Payload, json_lines
from data_prep.llm.base import Answer, Request

T = TypeVar("T")


class LlmTask(ABC, Generic[T]):
    """Many things that a language model is asked for, each of which becomes a value of type T.

    The things are in groups, such as query types, and have numbers in their group, such as rows. An
    engine pickles a task for its workers without the fields in `not_sent`, so `requests` and `made`
    may use only the other fields and the payload.

    Attributes:
      what: a word for the things in messages to the user, such as `queries`.
      id_key: the key under which a line of the answers holds the id of its thing, such as
        `doc_id`; a payload has the ids under the plural of this key.
      not_sent: the names of the fields that workers do not need.
    """

    what: ClassVar[str]
    id_key: ClassVar[str]
    not_sent: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def groups(self) -> Mapping[str, Sequence[int]]:
        """The numbers of the things in each group; shards are named after their group."""

    @property
    @abstractmethod
    def total(self) -> int:
        """The number of things in the whole job, of which a share may fail."""

    @abstractmethod
    def key(self, group: str, number: int, attempt: int) -> str:
        """A hash of all that decides the answer for a thing."""

    @abstractmethod
    def payload(self, group: str, numbers: Sequence[int], attempt: int) -> Payload:
        """The plain values from which the requests for some things of a group are made."""

    @abstractmethod
    def requests(self, payload: Payload) -> list[Request]:
        """One request for each thing of a payload."""

    @abstractmethod
    def judge(self, group: str, number: int, answer: Mapping[str, Any]) -> tuple[T, str]:
        """The value that an answer becomes, and the reason why it is bad; "" where it is good.

        Args:
          group: the group of the thing.
          number: the number of the thing.
          answer: a line that `made` wrote.
        """

    def name(self, group: str, thing_id: str) -> str:
        """The name of a thing in the list of those that failed."""
        del group
        return thing_id

    def made(self, payload: Payload, answers: Sequence[Answer]) -> Made:
        """A shard with one JSON object a line for each answer; failed requests are rejects too.

        Args:
          payload: a payload of this task, with its `group`, and the keys of its things as `asked`.
          answers: the answers to the requests of the payload.
        """
        lines, rejects = [], []
        ids = payload[f"{self.id_key}s"]
        for thing_id, key, answer in zip(ids, payload["asked"], answers, strict=True):
            lines.append({"asked": key, self.id_key: thing_id, **vars(answer)})
            if answer.error:
                name = self.name(payload["group"], thing_id)
                rejects.append({"id": name, "reason": answer.error})
        return Made(json_lines(lines), rejects, len(lines))

    def __getstate__(self) -> dict[str, Any]:
        """The fields that are sent to workers; a copy of a task has no other fields."""
        return {name: value for name, value in vars(self).items() if name not in self.not_sent}
