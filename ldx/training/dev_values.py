"""The dev values of a run's evaluated steps, as WORKDIR/dev keeps them."""

import dataclasses
from pathlib import Path

from ldx.common.errors import UserError
from ldx.common.files import read_json, write_json
from ldx.eval.metrics import METRIC


@dataclasses.dataclass(frozen=True)
class DevValues:
    """Losses and nDCG@10 of one evaluation.

    Attributes:
      means: losses, averaged over lists, and nDCG@10, all named dev/NAME.
      per_query: nDCG@10 by the id of the query's list.
      judged_by: who wrote the queries and who judged, in words, such as "synthetic queries" or
        "human queries judged by a language model"; for several kinds, how many of each.
    """

    means: dict[str, float]
    per_query: dict[str, float]
    judged_by: str


def write_dev_values(workdir: Path, step: int, values: DevValues, variant: str = "") -> None:
    """Keep nDCG@10 of every query at an evaluated step, for tests that pair queries.

    Args:
      workdir: the run's folder.
      step: the step.
      values: what was measured.
      variant: of what: the step as it is, or what `ldx.training.variants` made of it.
    """
    write_json(
        _values_path(workdir, step, variant),
        {"metric": METRIC, "judged_by": values.judged_by, "per_query": values.per_query},
    )


def read_dev_values(workdir: Path, step: int, variant: str = "") -> tuple[dict[str, float], str]:
    """nDCG@10 by query at a step, and whose queries and judgments these are.

    Raises:
      UserError: the step was not evaluated.
    """
    path = _values_path(workdir, step, variant)
    if not path.is_file():
        raise UserError(f"{path} is missing: was step {step} evaluated by this version of ldx?")
    stored = read_json(path)
    judged_by = stored["judged_by"]
    # Older runs have only an adjective for who wrote the queries.
    return stored["per_query"], judged_by if "queries" in judged_by else f"{judged_by} queries"


def _values_path(workdir: Path, step: int, variant: str) -> Path:
    folder = workdir / "dev"
    return folder / "alpha" / f"{variant}.json" if variant else folder / f"{step:06d}.json"


def evaluated_steps(workdir: Path) -> list[int]:
    """The steps that were evaluated, ascending."""
    return sorted(int(path.stem) for path in (workdir / "dev").glob("*.json"))
