"""Stage 5: the lists of the queries that pass all filters, with calibrated and fused scores.

Leaves WORKDIR/prep/lists/TYPE.npz and calibration.json, which says how far the teachers agree, how
much their targets teach, and how many queries each filter let through.
"""

from typing import Any

from data_prep.lists.calibration import METHODS
from data_prep.lists.results import TAUGHT_FILES
from data_prep.lists.taught import TaughtLists
from data_prep.pipeline.stage import Stage, run_as_command
from data_prep.pipeline.workspace import Workspace, file_fingerprints, needed
from data_prep.queries.query import QUERIES_NAME
from data_prep.retrieval.candidates import CANDIDATES_NAME
from data_prep.teachers.scores import SCORES_NAME
from ldx.common.files import write_json


def _work(workspace: Workspace) -> dict[str, Any]:
    written = TAUGHT_FILES.write(
        workspace,
        TaughtLists(workspace).make,
        hint="loosen prep.rank_limit, prep.require_own_first, prep.list_size or the margins",
    )
    facts = written.facts
    calibration = {
        "method": METHODS[workspace.settings.calibration].description,
        "fusion": "mean of the teachers' calibrated scores by weight",
        "teacher_temperature": workspace.config.loss.listwise_kl.teacher_temperature,
        "scales": {name: each["scales"] for name, each in facts.items() if "scales" in each},
    }
    write_json(
        workspace.prep / TAUGHT_FILES.result_name,
        {"types": written.types, "calibration": calibration, "facts": facts},
    )
    return {**written.counts, "facts": facts}


def _inputs(workspace: Workspace) -> dict[str, str]:
    return file_fingerprints(
        {
            "queries": needed(workspace.prep / QUERIES_NAME, "generate_queries"),
            "candidates": needed(workspace.prep / CANDIDATES_NAME, "mine"),
            "scores": needed(workspace.prep / SCORES_NAME, "score"),
        }
    )


STAGE = Stage(
    name="calibrate",
    keys=(
        "prep.teachers",
        "prep.calibration",
        "prep.rank_limit",
        "prep.require_own_first",
        "prep.min_top_score_percentile",
        "prep.list_size",
        "prep.list_sampling",
        "prep.absolute_margin",
        "prep.relative_margin",
        "prep.max_score",
        "loss.listwise_kl.teacher_temperature",
        "loss.listwise_kl.student_temperature",
    ),
    inputs=_inputs,
    outputs=TAUGHT_FILES.outputs,
    work=_work,
)

if __name__ == "__main__":
    run_as_command(STAGE.main)
