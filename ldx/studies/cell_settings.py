"""The settings, counts and day of a study's cells, for the head of its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldx.common.files import read_json
from ldx.data.pipeline import epoch_counts
from ldx.records.manifest import Manifest
from ldx.studies.jobs import FINISHED_NAME
from ldx.training.settings import CONFIG_NAME

RANGED = ("passages", "training lists", "steps", "lists a step", "learning rate", "day (UTC)")
"""Settings that are shown as the least and the most where cells differ; others are left out."""
_RULES = {"ndcg": "highest dev nDCG@10", "loss": "lowest dev loss"}


def settings_of_cell(folder: Path, records: Path, last_step: int) -> dict[str, Any]:
    """The settings of a cell, every "auto" replaced, by the names that the report gives them.

    Args:
      folder: the workdir of the finished run.
      records: its training lists.
      last_step: the number of steps that were done.

    Raises:
      UserError: the run left no config, or the records are incomplete.
    """
    config, manifest = read_json(folder / CONFIG_NAME), Manifest.read(records)
    model, data, prep = config["model"], config["data"], config["prep"]
    lists = epoch_counts(manifest.num_lists["train"], 1.0, data["query_type_weights"])
    losses = {name: loss.get("weight") for name, loss in config["loss"].items()}
    return {
        "model": model["path"].partition("#")[0],
        "passages": manifest.num_passages - manifest.num_synthetic_passages,
        "training queries": prep["queries"],
        "lists from": _source(prep),
        "entries of a list, at most": data["list_size"] or "all that it has",
        "training lists": sum(lists.values()),
        "losses": ", ".join(f"{name} {weight:g}" for name, weight in losses.items() if weight),
        "steps": last_step,
        "lists a step": data["batch_size"],
        "learning rate": config["optim"]["learning_rate"],
        "tokens of a query, at most": model["query_max_length"],
        "tokens of a passage, at most": model["passage_max_length"],
        "step kept": _RULES[config["train"]["select_by"]],
        "day (UTC)": _day(folder),
    }


def _source(prep: Mapping[str, Any]) -> str:
    if prep["list_source"] == "graded":
        return f"grades of {', '.join(prep['graded'])}; no teacher"
    return f"scores of {', '.join(prep['teachers'])}"


def _day(folder: Path) -> str:
    """The day on which the run ended, in UTC; "" where it is not known."""
    path = folder / FINISHED_NAME
    return str(read_json(path).get("day", "")) if path.is_file() else ""


def shared_settings(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that all cells share, and [least, most] for those of RANGED that differ.

    What the axes change differs, so it is left out unless it is in RANGED.
    """
    shared: dict[str, Any] = {}
    for name in cells[0] if cells else ():
        values = {each[name] for each in cells} - {""}
        if len(values) == 1:
            shared[name] = values.pop()
        elif values and name in RANGED:
            shared[name] = [min(values), max(values)]
    return shared
