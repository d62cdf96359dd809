"""The declaration of a study: a base experiment, the axes that vary it, and the cells they span."""

import copy
import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

from ldx.common.errors import UserError, listing
from ldx.common.sections import build, flatten_config

DATASET_AXIS = "dataset"
"""The axis whose values are test collections; nothing is compared across it."""
SAMPLE = "sample"
"""Overrides of keys below it change `config.study.sample`, all others the experiment."""
AUTO = "auto"
_NAME = re.compile(r"[\w+][\w+.-]*")
_METRIC = re.compile(r"(nDCG|R|RR|AP|P|Success)@[1-9][0-9]{0,3}")

Overrides = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
    """The section `config.study`; configs/studies/common.py explains its keys."""

    name: str
    question: str
    caveat: str
    size: str
    base: Mapping[str, Any]
    axes: Mapping[str, Mapping[str, Overrides]]
    seeds: tuple[int, ...]
    baseline: Mapping[str, str]
    metric: str
    sample: Mapping[str, Any]
    roots: Mapping[str, str]
    prepare_each_seed: bool
    max_parallel: int | str
    memory_per_run: float

    def __post_init__(self) -> None:
        names = [self.name, *self.axes, *(value for axis in self.axes.values() for value in axis)]
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or "--" in name:
                raise UserError(
                    f"config.study: {name!r} is also the name of a folder and may have only "
                    "letters, digits, _, +, . and single -"
                )
        for axis, values in self.axes.items():
            if not values:
                raise UserError(f"config.study.axes.{axis} has no value")
        for axis, value in self.baseline.items():
            if axis not in self.axes or axis == DATASET_AXIS or value not in self.axes[axis]:
                raise UserError(
                    f"config.study.baseline={dict(self.baseline)}: wanted, of axes other than "
                    f"{DATASET_AXIS}, one value each; the axes are "
                    + "; ".join(f"{name}: {', '.join(axis)}" for name, axis in self.axes.items())
                )
        _check_seeds(self.seeds)
        _check_metric(self.metric)
        self._check_work()

    def _check_work(self) -> None:
        parallel = self.max_parallel
        if parallel != AUTO and (not isinstance(parallel, int) or parallel < 1):
            raise UserError(f"config.study.max_parallel={parallel!r}: wanted auto, or at least 1")
        if not isinstance(self.memory_per_run, int | float) or self.memory_per_run <= 0:
            raise UserError(
                f"config.study.memory_per_run={self.memory_per_run!r}: wanted GiB, over 0"
            )
        if self.base["data"]["sources"]:
            raise UserError(
                "config.study.base.data.sources: a study has one corpus a cell; make each a value "
                f"of the axis {DATASET_AXIS}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One training run of a study.

    Attributes:
      values: the name of the value on each axis.
      seed: the seed of the run.
      config: the experiment with all overrides; data.root may still be a name of study.roots.
      sample: the part of the collection that it is on.
    """

    values: Mapping[str, str]
    seed: int
    config: dict[str, Any]
    sample: dict[str, Any]

    @property
    def name(self) -> str:
        """A name that is unique in the study."""
        return "--".join([*self.values.values(), f"seed{self.seed}"])

    @property
    def dataset(self) -> str:
        """The value of the dataset axis; "" where the study has none."""
        return self.values.get(DATASET_AXIS, "")


def read_study(config: Mapping[str, Any]) -> Study:
    """The study that a config declares.

    Raises:
      UserError: the config has no study, an unknown or missing key, or an impossible value.
    """
    if "study" not in config:
        raise UserError(
            "the config has no section study: it is an experiment, for python -m ldx.train; the "
            "studies are in configs/studies"
        )
    section = dict(config["study"])
    seeds = section.get("seeds", ())
    section["seeds"] = tuple(seeds) if isinstance(seeds, list | tuple) else (seeds,)
    return build(Study, section, "study")


def expand(study: Study) -> list[Cell]:
    """All cells of a study: every combination of values of the axes, with every seed.

    Raises:
      UserError: overrides of keys that do not exist, with their axis and value, or two axes that
        set the same key.
    """
    problems = _conflicts(study)
    cells = []
    whole = {**study.base, SAMPLE: study.sample}
    for names in itertools.product(*study.axes.values()):
        values = dict(zip(study.axes, names, strict=True))
        config: dict[str, Any] = copy.deepcopy(dict(whole))
        for axis, name in values.items():
            where = f"config.study.axes.{axis}.{name}"
            for key, value in study.axes[axis][name].items():
                problem = _override(config, key, copy.deepcopy(value), where)
                if problem and problem not in problems:
                    problems.append(problem)
        sample = config.pop(SAMPLE)
        for seed in study.seeds:
            cells.append(Cell(values, seed, {**copy.deepcopy(config), "seed": seed}, sample))
    if problems:
        raise UserError(f"the study {study.name} cannot be:\n{listing(problems)}")
    return cells


def _override(config: dict[str, Any], key: str, value: Any, where: str) -> str | None:
    """Set an existing dotted key; the problem where it cannot be set."""
    if key == "seed":
        return f"{where}: seed is set by config.study.seeds"
    *sections, last = key.split(".")
    section: Any = config
    for name in sections:
        section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        return f"{where}: the experiment has no key {key}"
    if isinstance(section[last], dict) != isinstance(value, dict):
        kinds = [("a section" if isinstance(x, dict) else repr(x)) for x in (section[last], value)]
        return f"{where}: {key} is {kinds[0]}, and cannot become {kinds[1]}"
    section[last] = value
    return None


def _conflicts(study: Study) -> list[str]:
    """Keys that two axes set, of which either could win."""
    owner: dict[str, str] = {}
    problems = []
    for axis, values in study.axes.items():
        for key in sorted({key for overrides in values.values() for key in overrides}):
            for other, other_axis in owner.items():
                longer, shorter = sorted((f"{key}.", f"{other}."), key=len, reverse=True)
                if other_axis != axis and longer.startswith(shorter):
                    problems.append(f"the axes {other_axis} and {axis} both set {longer[:-1]}")
            owner[key] = axis
    return problems


def _check_seeds(seeds: tuple[int, ...]) -> None:
    good = all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not seeds or not good or len(set(seeds)) < len(seeds):
        raise UserError(
            f"config.study.seeds={seeds!r}: wanted different whole numbers of at least 0"
        )


def _check_metric(metric: str) -> None:
    # ir_measures would find a wrong name only when cells are scored, after all were trained.
    if not isinstance(metric, str) or not _METRIC.fullmatch(metric):
        raise UserError(
            f"config.study.metric={metric!r}: wanted nDCG, R, RR, AP, P or Success, with a cut-off "
            "from 1 to 9999, such as nDCG@10; case counts"
        )


def differing_keys(config: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """The number of keys that have different values in two configs."""
    a, b = flatten_config(config), flatten_config(other)
    return sum(a.get(key) != b.get(key) for key in a.keys() | b.keys())
