"""The files of lists that a stage leaves, and the file of results that says how they were made.

Lists are made by one of two stages: `calibrate`, from a teacher's scores, or `grade`, where
`config.prep.list_source` is graded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.lists.prepared import TypeLists, save_lists
from data_prep.pipeline.settings import EntryKind, LabelOrigin
from data_prep.pipeline.workspace import Workspace, needed
from data_prep.queries.query import query_shards
from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.records.schema import HUMAN_DEV, Judge

LABEL = "label "  # the names of counts by label begin so
_JUDGES = {
    EntryKind.JUDGED: Judge.PEOPLE,
    EntryKind.SYNTHETIC: Judge.LANGUAGE_MODEL,
    EntryKind.MINED: Judge.RETRIEVERS,
}


@dataclass(frozen=True)
class ListFiles:
    """The place where a stage leaves its lists.

    Attributes:
      stage: the stage's name.
      folder: a folder in WORKDIR/prep, with a file TYPE.npz for every query type.
      result_name: the file in WORKDIR/prep that says how the lists were made.
    """

    stage: str
    folder: str
    result_name: str

    def result_path(self, workspace: Workspace) -> Path:
        """The file that says how the lists were made.

        Raises:
          UserError: the stage has not been run.
        """
        return needed(workspace.prep / self.result_name, self.stage)

    def read_result(self, workspace: Workspace) -> dict[str, Any]:
        """The content of the file that says how the lists were made."""
        return read_json(self.result_path(workspace))

    def paths(self, workspace: Workspace) -> dict[str, Path]:
        """The files of lists, by query type."""
        types = self.read_result(workspace)["types"]
        return {name: self._path(workspace, name) for name in types}

    def outputs(self, workspace: Workspace) -> list[Path]:
        """All files that the stage leaves; before it was run, those that are known."""
        result = workspace.prep / self.result_name
        return [result, *(self.paths(workspace).values() if result.is_file() else ())]

    def _path(self, workspace: Workspace, query_type: str) -> Path:
        return workspace.prep / self.folder / f"{query_type}.npz"

    def write(
        self, workspace: Workspace, make: Callable[[str], TypeLists], hint: str
    ) -> "WrittenLists":
        """Make the lists of every query type and write them.

        Args:
          workspace: a workspace with queries.
          make: makes the lists of a query type.
          hint: what the user can do where there are no lists to train on.

        Raises:
          UserError: there are no lists to train on.
        """
        types = dict.fromkeys(part.query_type for part in query_shards(workspace))
        types_with_lists: list[str] = []
        facts: dict[str, Any] = {}
        counts: dict[str, str] = {}
        num_lists = 0
        for query_type in types:
            result = make(query_type)
            facts[query_type] = result.facts
            counts[query_type] = f"{result.num_lists} of {result.num_queries}"
            num_lists += result.num_lists
            if result.lists is not None:
                types_with_lists.append(query_type)
                save_lists(self._path(workspace, query_type), result.lists)
        if not set(types_with_lists) - {HUMAN_DEV}:
            yields = {name: of_type["yields"] for name, of_type in facts.items()}
            raise UserError(f"no lists: the counts by query type are {yields}; {hint}")
        return WrittenLists(types_with_lists, facts, {"lists": num_lists, **counts})


@dataclass(frozen=True)
class WrittenLists:
    """A summary of what `ListFiles.write` wrote.

    Attributes:
      types: the query types that have lists.
      facts: what is reported, by query type.
      counts: how many lists there are, and by type how many queries have one.
    """

    types: Sequence[str]
    facts: dict[str, Any]
    counts: dict[str, Any]


TAUGHT_FILES = ListFiles("calibrate", "lists", "calibration.json")
GRADED_FILES = ListFiles("grade", "graded", "graded.json")


def list_files(workspace: Workspace) -> ListFiles:
    """The place of the lists that the config asks for."""
    return GRADED_FILES if workspace.settings.list_source == LabelOrigin.GRADED else TAUGHT_FILES


def judges_of(workspace: Workspace, query_type: str) -> list[str]:
    """The judges of what is relevant to people's queries, where lists are made of graded labels.

    They are the judges whose entries have labels over 0.
    """
    result = GRADED_FILES.read_result(workspace)
    kinds = {
        result["sources"][name]["kind"]
        for name, counts in result["facts"][query_type]["sources"].items()
        if any(key.startswith(LABEL) and key != f"{LABEL}0" for key in counts)
    }
    return [judge for kind, judge in _JUDGES.items() if kind in kinds]
