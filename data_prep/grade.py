"""Stage 5 where `config.prep.list_source` is graded: lists of graded labels, without a teacher.

Leaves WORKDIR/prep/graded/TYPE.npz and graded.json, which says how many entries of each label
every rule of `config.prep.graded` gave, and how many lists were dropped.
"""

import functools
from typing import Any

from data_prep.corpora.passages import passages_inputs
from data_prep.documents.document import DOCUMENTS_NAME
from data_prep.lists.entry_rules import entry_rules
from data_prep.lists.graded import graded_lists
from data_prep.lists.results import GRADED_FILES
from data_prep.pipeline.settings import EntryKind, graded_kinds
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries.query import QUERIES_NAME
from data_prep.retrieval.candidates import CANDIDATES_NAME
from ldx.common.files import write_json


def _work(workspace: Workspace) -> dict[str, Any]:
    sections = workspace.settings.graded
    written = GRADED_FILES.write(
        workspace,
        functools.partial(graded_lists, workspace, entry_rules(sections)),
        hint="a list needs entries of two labels at least, see config.prep.graded",
    )
    facts = {"sources": sections, "facts": written.facts}
    write_json(workspace.prep / GRADED_FILES.result_name, {"types": written.types, **facts})
    return {**written.counts, **facts}


def _inputs(workspace: Workspace) -> dict[str, str]:
    kinds = graded_kinds(workspace.settings)
    paths = {"queries": needed(workspace.prep / QUERIES_NAME, "generate_queries")}
    if EntryKind.MINED in kinds:
        paths["candidates"] = needed(workspace.prep / CANDIDATES_NAME, "mine")
    if EntryKind.SYNTHETIC in kinds:
        paths["documents"] = needed(workspace.prep / DOCUMENTS_NAME, "generate_documents")
    return passages_inputs(workspace) | file_fingerprints(paths)


STAGE = Stage(
    name="grade",
    keys=("seed", "prep.graded", "prep.shard_size"),
    inputs=_inputs,
    outputs=GRADED_FILES.outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
