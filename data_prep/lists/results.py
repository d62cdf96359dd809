"""Files of lists that a stage leaves, and the file that tells how they were made.

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

LABEL = "label "  # begins the names of counts by label
_JUDGES = {
    EntryKind.JUDGED: Judge.PEOPLE,
    EntryKind.SYNTHETIC: Judge.LANGUAGE_MODEL,
    EntryKind.MINED: Judge.RETRIEVERS,
}


@dataclass(frozen=True)
class ListFiles:
    """Where a stage leaves its lists.

    Attributes:
      stage: its name.
      folder: in WORKDIR/prep, with a file TYPE.npz for every query type.
      result_name: the file in WORKDIR/prep that tells how they were made.
    """

    stage: str
    folder: str
    result_name: str

    def result_path(self, workspace: Workspace) -> Path:
        """The file that tells how the lists were made.

        Raises:
          UserError: the stage has not been run.
        """
        return needed(workspace.prep / self.result_name, self.stage)

    def read_result(self, workspace: Workspace) -> dict[str, Any]:
        """What that file says."""
        return read_json(self.result_path(workspace))

    def paths(self, workspace: Workspace) -> dict[str, Path]:
        """The files of lists, by query type."""
        types = self.read_result(workspace)["types"]
        return {name: self._path(workspace, name) for name in types}

    def outputs(self, workspace: Workspace) -> list[Path]:
        """All files that the stage leaves, as far as it is known before it was run."""
        result = workspace.prep / self.result_name
        return [result, *(self.paths(workspace).values() if result.is_file() else ())]

    def _path(self, workspace: Workspace, query_type: str) -> Path:
        return workspace.prep / self.folder / f"{query_type}.npz"

    def write(
        self, workspace: Workspace, make: Callable[[str], TypeLists], hint: str
    ) -> "WrittenLists":
        """Make the lists of every query type and write them.

        Args:
          workspace: with queries.
          make: the lists of a type.
          hint: what to do where there are no lists to train on.

        Raises:
          UserError: there are none.
        """
        types = dict.fromkeys(part.query_type for part in query_shards(workspace))
        kept: list[str] = []
        facts: dict[str, Any] = {}
        counts: dict[str, str] = {}
        num_lists = 0
        for query_type in types:
            made = make(query_type)
            facts[query_type] = made.facts
            counts[query_type] = f"{made.num_lists} of {made.num_queries}"
            num_lists += made.num_lists
            if made.lists is not None:
                kept.append(query_type)
                save_lists(self._path(workspace, query_type), made.lists)
        if not set(kept) - {HUMAN_DEV}:
            yields = {name: of_type["yields"] for name, of_type in facts.items()}
            raise UserError(f"no lists: of each query type stay {yields}; {hint}")
        return WrittenLists(kept, facts, {"lists": num_lists, **counts})


@dataclass(frozen=True)
class WrittenLists:
    """What `ListFiles.write` wrote.

    Attributes:
      types: the query types that have lists.
      facts: what is reported of every type.
      counts: how many lists there are, and of how many queries by type.
    """

    types: Sequence[str]
    facts: dict[str, Any]
    counts: dict[str, Any]


TAUGHT_FILES = ListFiles("calibrate", "lists", "calibration.json")
GRADED_FILES = ListFiles("grade", "graded", "graded.json")


def list_files(workspace: Workspace) -> ListFiles:
    """Where the lists are that the config asks for."""
    return GRADED_FILES if workspace.settings.list_source == LabelOrigin.GRADED else TAUGHT_FILES


def judges_of(workspace: Workspace, query_type: str) -> list[str]:
    """Who said what is relevant to people's queries, whose lists are made of graded labels.

    They are those whose entries have labels over 0.
    """
    result = GRADED_FILES.read_result(workspace)
    kinds = {
        result["sources"][name]["kind"]
        for name, counts in result["facts"][query_type]["sources"].items()
        if any(key.startswith(LABEL) and key != f"{LABEL}0" for key in counts)
    }
    return [judge for kind, judge in _JUDGES.items() if kind in kinds]
