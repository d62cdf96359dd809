"""The sections of a config as checked, typed values, in which "auto" has become a number."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from absl import logging

from ldx.common.config_paths import is_path_key, with_absolute_paths
from ldx.common.configs import base_settings
from ldx.common.errors import UserError, listing
from ldx.common.files import read_json, write_json
from ldx.common.rules import check_values
from ldx.common.sections import build, check_keys, flatten_config
from ldx.data.pipeline import num_batches
from ldx.records.schema import check_template
from ldx.step.optim import OptimConfig, auto_batch_size, auto_learning_rate, auto_warmup_steps

CONFIG_NAME = "config.json"
JUDGMENTS = "judgments"
"""What the names of fingerprints of judged collections begin with; "" is of one without any."""
FINGERPRINTS_NAME = "fingerprints.json"
MAY_DIFFER = (
    "checkpoint.",
    "logging.",
    # These say how the work is cut, not what is computed; other devices may need another cut.
    "train.microbatch_tokens",
    "train.bucket_lengths",
    "train.activation_bytes",
    "train.fsdp",
    "model.attention",
    "model.remat",
)


ALPHAS = (0.25, 0.5, 0.75, 1.25, 1.5)
"""What `train.alpha` "auto" tries; 0 is the base model and 1 the trained one, which are evaluated
already."""


class Criterion(StrEnum):
    """What dev evaluations are compared by."""

    NDCG = "ndcg"
    LOSS = "loss"


class TrainedTowers(StrEnum):
    """What learns: queries and passages with one model, or queries alone."""

    BOTH = "both"
    QUERY = "query"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `config.data`."""

    root: str
    records: str
    passage_template: str
    max_chars: int | None
    batch_size: int
    list_size: int | None
    block_size: int = 1
    sources: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    query_type_weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_template(self.passage_template)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The section `config.train`; `num_steps` and `eval_every` are already numbers."""

    max_epochs: int
    num_steps: int
    eval_every: int
    stop_on: Criterion | None
    patience: int
    dev_pool: int
    microbatch_tokens: int | str
    bucket_lengths: tuple[int, ...] | None
    activation_bytes: int | str = "auto"
    fsdp: int = 1
    select_by: Criterion = Criterion.NDCG
    towers: TrainedTowers = TrainedTowers.BOTH
    alpha: float | str = "auto"
    average_with: tuple[str, ...] = ()
    passage_map: str = ""

    def __post_init__(self) -> None:
        if self.passage_map and self.towers != TrainedTowers.QUERY:
            raise UserError(
                f"config.train.passage_map={self.passage_map!r} maps stored passages, which only "
                f"config.train.towers=query has; it is {self.towers}"
            )

        if self.average_with and self.alpha != "auto":
            raise UserError(
                f"config.train.alpha={self.alpha} says what is kept, so nothing could become of "
                "config.train.average_with; leave alpha at auto"
            )

    @property
    def alphas(self) -> tuple[float, ...]:
        """The values beside 1 that are tried after training."""
        if self.alpha == "auto":
            # With both towers, every value would have all dev passages embedded once more.
            return ALPHAS if self.towers == TrainedTowers.QUERY else ()
        return (float(self.alpha),) if float(self.alpha) != 1 else ()

    @property
    def tries_checkpoints(self) -> bool:
        """Whether the mean of the last checkpoints is tried after training; see `alphas`."""
        return self.alpha == "auto" and self.towers == TrainedTowers.QUERY


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """The section `config.eval`."""

    split: str
    index: str
    relevance_level: int


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """The section `config.checkpoint`."""

    every_minutes: float


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """The section `config.logging`."""

    every_steps: int
    tensorboard: bool
    wandb_project: str


SECTIONS = (
    "seed",
    "model",
    "guide",
    "data",
    "loss",
    "optim",
    "train",
    "eval",
    "checkpoint",
    "logging",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked config with every "auto" replaced; `whole` is its plain form."""

    seed: int
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig
    whole: dict[str, Any]


def check_sections(config: Mapping[str, Any]) -> None:
    """Refuse a config without the sections of an experiment, and values that no key may have."""
    check_keys(config, [*SECTIONS, "prep"], "")
    missing = [name for name in SECTIONS if name not in config]
    if missing:
        raise UserError(f"config.{missing[0]} is missing; configs/base.py explains it")
    check_values(config)


def resolve(config: Mapping[str, Any], *num_lists: int) -> Settings:
    """Check a config and replace every "auto" that decides what is computed.

    Args:
      config: the config as a plain dict.
      *num_lists: the number of lists of an epoch, for each source.

    Raises:
      UserError: a key is unknown or missing, or a value is not allowed.
    """
    whole: dict[str, Any] = json.loads(json.dumps(dict(config)))
    check_sections(whole)
    data, optim, train = whole["data"], whole["optim"], whole["train"]
    _replace_auto(data, "batch_size", lambda: auto_batch_size(sum(num_lists)))
    batch_size = data["batch_size"]
    steps_per_epoch = sum(num_batches(number, batch_size) for number in num_lists)
    if train.get("num_steps") is None:
        train["num_steps"] = steps_per_epoch * train["max_epochs"]
    if train.get("eval_every") is None:
        train["eval_every"] = steps_per_epoch
    _replace_auto(optim, "learning_rate", lambda: auto_learning_rate(batch_size))
    _replace_auto(
        optim, "warmup_steps", lambda: auto_warmup_steps(steps_per_epoch, train["num_steps"])
    )
    _check_warmup(optim, train["num_steps"])
    return Settings(
        seed=whole["seed"],
        data=build(DataConfig, data, "data"),
        optim=build(OptimConfig, optim, "optim"),
        train=build(TrainConfig, train, "train"),
        eval=build(EvalConfig, whole["eval"], "eval"),
        checkpoint=build(CheckpointConfig, whole["checkpoint"], "checkpoint"),
        logging=build(LoggingConfig, whole["logging"], "logging"),
        whole=whole,
    )


def _replace_auto(section: dict[str, Any], key: str, value: Callable[[], float]) -> None:
    if section.get(key) == "auto":
        section[key] = value()


def _check_warmup(optim: Mapping[str, Any], num_steps: int) -> None:
    """Refuse a warm-up that never ends, so that the rate never is what the config says."""
    if optim["warmup_steps"] > num_steps:
        raise UserError(
            f"config.optim.warmup_steps={optim['warmup_steps']}: the run has {num_steps} steps; "
            "wanted at most as many, or auto"
        )


def check_same_run(workdir: Path, whole: dict[str, Any], fingerprints: dict[str, str]) -> None:
    """Refuse to go on with another config, model or data than the run began with.

    Paths may differ: what they lead to must be the same. A key that the run does not have is newer
    than the run. It must have its default of configs/base.py, by which ldx does what it did before
    there was the key.

    Raises:
      UserError: something differs; the message names every difference outside `MAY_DIFFER`.
    """
    before, now = map(
        flatten_config, map(with_absolute_paths, (read_json(workdir / CONFIG_NAME), whole))
    )
    before = {key: value for key, value in base_settings().items() if key in now} | before
    others = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    others = [key for key in others if not key.startswith(MAY_DIFFER)]
    changes = {
        key: f"config.{key}: the run has {before.get(key)!r}, now {now.get(key)!r}"
        for key in others
    }
    known = read_json(workdir / FINGERPRINTS_NAME)
    problems = [change for key, change in changes.items() if not _may_move(key, known)]
    for name, value in known.items():
        if name.startswith(JUDGMENTS) and not (value and fingerprints.get(name)):
            continue  # they are for the report: a run goes on without them, or with its first ones
        is_told = any(problem.startswith(f"config.{name}.") for problem in problems)
        if fingerprints.get(name) != value and not is_told:
            change = changes.get(f"{name}.path", f"the {name}: changed since the run began")
            problems.append(change)
    if problems:
        raise UserError(
            f"{workdir} holds a run of other settings:\n{listing(problems)}\n"
            "Undo these changes, or give a new --workdir."
        )
    for change in changes.values():
        logging.info("%s; the run goes on", change)


def _may_move(key: str, fingerprints: Mapping[str, str]) -> bool:
    """Whether a path may be another one, as a fingerprint tells what it leads to."""
    if key.endswith(".root"):  # older runs have no fingerprint of judgments
        return any(name.startswith(JUDGMENTS) for name in fingerprints)
    return is_path_key(key) and key != "train.average_with"


def save_run(workdir: Path, whole: dict[str, Any], fingerprints: dict[str, str]) -> None:
    """Save the config and the fingerprints of model and data, for `check_same_run`.

    Paths are saved as absolute ones, for commands that are given in another folder.
    """
    write_json(workdir / FINGERPRINTS_NAME, fingerprints)
    write_json(workdir / CONFIG_NAME, with_absolute_paths(whole))
