"""Runs that this one is averaged with after training (`train.average_with`)."""

from pathlib import Path

from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.training.checkpoint import read_progress
from ldx.training.settings import CONFIG_NAME, FINGERPRINTS_NAME, Settings, TrainedTowers


def check_others(settings: Settings, model: str) -> None:
    """Refuse runs in `train.average_with` that this one cannot be averaged with.

    Args:
      settings: those of this run.
      model: the fingerprint of its base model.

    Raises:
      UserError: there is no finished run, or it is of another model, or trains something else.
    """
    for folder in map(Path, settings.train.average_with):
        where = f"config.train.average_with: {folder}"
        progress = read_progress(folder)
        if progress is None or not progress.finished or not progress.best_step:
            raise UserError(f"{where}: wanted a finished run that is better than its base model")
        if read_json(folder / FINGERPRINTS_NAME).get("model") != model:
            raise UserError(f"{where}: a run of another base model, prompt or maximum length")
        train = read_json(folder / CONFIG_NAME)["train"]
        for key, before_it_was_there in (("towers", TrainedTowers.BOTH), ("passage_map", "")):
            value, own = train.get(key, before_it_was_there), getattr(settings.train, key)
            if value != own:
                raise UserError(
                    f"{where}: its train.{key} is {value!r}, that of this run is {own!r}"
                )
