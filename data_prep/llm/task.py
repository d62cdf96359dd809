"""A task for a language model: what it is asked for, and what becomes of its answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from data_prep.engines.shards import Made, Payload, json_lines
from data_prep.llm.base import Answer, Request

T = TypeVar("T")


class LlmTask(ABC, Generic[T]):
    """Many things that a language model is asked for, each of which becomes a T.

    They stand in groups such as query types, and have numbers in their group, such as rows. An
    engine pickles a task for its workers, without the fields in `not_sent`: `requests` and `made`
    work with the others and the payload alone.

    Attributes:
      what: the things, as the user is told, such as `queries`.
      id_key: how a line of the answers names its thing (`doc_id`); a payload has its plural.
      not_sent: fields that workers do not need.
    """

    what: ClassVar[str]
    id_key: ClassVar[str]
    not_sent: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def groups(self) -> Mapping[str, Sequence[int]]:
        """The numbers of each group; its name begins the names of its shards."""

    @property
    @abstractmethod
    def total(self) -> int:
        """The things of the whole job, of which some share may fail."""

    @abstractmethod
    def key(self, group: str, number: int, attempt: int) -> str:
        """A hash of all that decides an answer."""

    @abstractmethod
    def payload(self, group: str, numbers: Sequence[int], attempt: int) -> Payload:
        """What the requests for some things of a group are made from, of plain values."""

    @abstractmethod
    def requests(self, payload: Payload) -> list[Request]:
        """One request for each thing of a payload."""

    @abstractmethod
    def judge(self, group: str, number: int, answer: Mapping[str, Any]) -> tuple[T, str]:
        """What an answer becomes, and why it is bad ("": it is good).

        Args:
          group: of the thing.
          number: of the thing.
          answer: a line that `made` wrote.
        """

    def name(self, group: str, thing_id: str) -> str:
        """The name of a thing among those that failed."""
        del group
        return thing_id

    def made(self, payload: Payload, answers: Sequence[Answer]) -> Made:
        """The answers as a JSON object a line; requests that failed are rejects too.

        Args:
          payload: of this task, with `group` and the keys of its things, `asked`.
          answers: to its requests.
        """
        lines, rejects = [], []
        ids = payload[f"{self.id_key}s"]
        for thing_id, asked, answer in zip(ids, payload["asked"], answers, strict=True):
            lines.append({"asked": asked, self.id_key: thing_id, **vars(answer)})
            if answer.error:
                name = self.name(payload["group"], thing_id)
                rejects.append({"id": name, "reason": answer.error})
        return Made(json_lines(lines), rejects, len(lines))

    def __getstate__(self) -> dict[str, Any]:
        """The fields that are sent to workers; copies have no more."""
        return {name: value for name, value in vars(self).items() if name not in self.not_sent}
