"""The manifest: what a folder of records holds and how it was made.

It is written last, so its presence means that the records are complete.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldx.common.errors import UserError, listing
from ldx.common.files import fingerprint, read_json, write_json
from ldx.records import tfds_layout
from ldx.records.schema import (
    FORMAT_VERSION,
    HUMAN_DEV,
    JUDGED_TYPES,
    PASSAGE_SPLIT,
    PREPARE_COMMAND,
    UNKNOWN_JUDGE,
    Judge,
)

MANIFEST_NAME = "manifest.json"
NDCG_BY_WEIGHT = "nDCG@10 by weight"
"""Where the yields of `score` have what each weight of a hybrid's dense retriever gave."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a records folder, written last.

    Attributes:
      collection: the name of the collection, such as `scifact`.
      num_passages: the size of the passage set.
      num_lists: the numbers of lists by split and query type, as `write_lists` returns them.
      num_synthetic_passages: how many of the passages, the last ones, a language model wrote; the
        others are the collection.
      judges: who said what is relevant (values of `Judge`), by the type of queries that people
        wrote; queries of other types are synthetic. None: the records do not say.
      fingerprints: the fingerprints of `passages` and `lists` (`records_fingerprint`).
      passage_template: how title and text were joined for the teachers and are for training.
      max_chars: the characters at which that text was cut; None if it was not cut.
      teachers: one dict a teacher with at least its `name`, in the order of raw_scores.
      seed: the seed of the preparation.
      calibration: how teacher_scores were made of raw_scores.
      order_key: how the order_key of lists was made; "" if the records do not say.
      prompts: the prompts of teachers and generators, by stage.
      yields: how many items each stage received and let through.
      versions: the versions of ldx and of the libraries that made the records.
      settings: the section `config.prep` that the records were made by; {} if they do not say.
      format_version: the version of the format of the records.
    """

    collection: str
    num_passages: int
    num_lists: dict[str, dict[str, int]]
    fingerprints: dict[str, str]
    passage_template: str
    max_chars: int | None
    teachers: list[dict[str, Any]]
    seed: int
    calibration: dict[str, Any] = field(default_factory=dict)
    order_key: str = ""
    prompts: dict[str, Any] = field(default_factory=dict)
    yields: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    num_synthetic_passages: int = 0
    judges: dict[str, list[str]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def write(self, records_dir: str | Path) -> None:
        """Check the counts against the sets in `records_dir` and write manifest.json atomically."""
        path = Path(records_dir) / MANIFEST_NAME
        self._check_counts(path)
        write_json(path, dataclasses.asdict(self))

    def provenance(self) -> dict[str, Any]:
        """How the lists were made, for a model card."""
        keys = ["judges", "teachers", "calibration", "prompts", "yields"]
        keys += ["seed", "settings", "versions"]
        return {key: value for key in keys if (value := getattr(self, key)) not in ({}, [], None)}

    def judges_of(self, query_type: str) -> list[str]:
        """Who said what is relevant to the queries of a type that people wrote; [] for others.

        A manifest without `judges` means people. For graded lists it means an unknown judge,
        because a language model may have graded them.
        """
        if query_type == HUMAN_DEV:
            return [Judge.PEOPLE]
        if self.judges is not None:
            return self.judges.get(query_type, [])
        if query_type not in JUDGED_TYPES:
            return []
        return [UNKNOWN_JUDGE if "grade" in self.yields else Judge.PEOPLE]

    @classmethod
    def read(cls, records_dir: str | Path) -> "Manifest":
        """Read manifest.json and check it against the sets beside it.

        Raises:
          UserError: folder, manifest or a set is missing; keys, types or counts are wrong.
        """
        path = Path(records_dir) / MANIFEST_NAME
        if not path.is_file():
            what = "incomplete records" if path.parent.is_dir() else "no records"
            raise UserError(
                f"{path}: no such file ({what}); make the records with\n  {PREPARE_COMMAND}"
            )
        values = read_json(path)
        problems = _problems(values)
        if problems:
            raise UserError(
                f"{path}: not a manifest of format {FORMAT_VERSION}\n{listing(problems)}\n"
                f"make the records again with\n  {PREPARE_COMMAND}"
            )
        manifest = cls(**values)
        manifest._check_counts(path)
        return manifest

    def check_files(self, records_dir: str | Path) -> None:
        """Read the sets once and compare their content with the fingerprints.

        Raises:
          UserError: a set is not the one that the manifest was written for.
        """
        for name, expected in self.fingerprints.items():
            if fingerprint(*tfds_layout.record_files(records_dir, name)) != expected:
                raise UserError(
                    f"{records_dir}/{name}: not what {MANIFEST_NAME} was written for: damaged, or "
                    f"of another preparation; make the records again with\n  {PREPARE_COMMAND}"
                )

    def _check_counts(self, path: Path) -> None:
        counts = {
            name: {
                split: sum(lengths)
                for split, lengths in tfds_layout.read_shard_lengths(path.parent, name).items()
            }
            for name in ("passages", "lists")
        }
        declared = {
            "passages": {PASSAGE_SPLIT: self.num_passages},
            "lists": {split: sum(types.values()) for split, types in self.num_lists.items()},
        }
        if counts != declared:
            raise UserError(
                f"{path}: the manifest says {declared}, the sets beside it have {counts}; "
                f"make the records again with\n  {PREPARE_COMMAND}"
            )


def remove_manifest(records_dir: str | Path) -> None:
    """Remove the manifest, because what it describes is about to change."""
    (Path(records_dir) / MANIFEST_NAME).unlink(missing_ok=True)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "collection": str,
    "num_passages": int,
    "num_lists": dict,
    "fingerprints": dict,
    "passage_template": str,
    "max_chars": (int, type(None)),
    "teachers": list,
    "seed": int,
    "calibration": dict,
    "order_key": str,
    "prompts": dict,
    "yields": dict,
    "versions": dict,
    "num_synthetic_passages": int,
    "judges": (dict, type(None)),
    "settings": dict,
    "format_version": int,
}
_MAY_LACK = {"order_key", "num_synthetic_passages", "judges", "settings"}


def _problems(values: Any) -> list[str]:
    if not isinstance(values, dict):
        return [f"a {type(values).__name__} instead of an object"]
    if values.get("format_version") != FORMAT_VERSION:
        return [f"format_version is {values.get('format_version')!r}, not {FORMAT_VERSION}"]
    missing = _TYPES.keys() - _MAY_LACK - values.keys()
    problems = [f"the key {key} is missing" for key in _TYPES if key in missing]
    problems += [f"the key {key} is unknown" for key in values if key not in _TYPES]
    for key, expected in _TYPES.items():
        value = values.get(key)
        if key in values and (not isinstance(value, expected) or isinstance(value, bool)):
            problems.append(f"{key} is {value!r}")
    if not problems:
        problems += _nested_problems(values)
    return problems


def _nested_problems(values: dict[str, Any]) -> list[str]:
    problems = []
    for split, types in values["num_lists"].items():
        if not isinstance(types, dict) or not all(type(n) is int for n in types.values()):
            problems.append(f"num_lists.{split} is {types!r}, not counts by query type")
    for query_type, judges in (values.get("judges") or {}).items():
        if not isinstance(judges, list) or not judges or not set(map(str, judges)) <= set(Judge):
            problems.append(f"judges.{query_type} is {judges!r}; known are {', '.join(Judge)}")
    for name in ("passages", "lists"):
        if not isinstance(values["fingerprints"].get(name), str):
            problems.append(f"fingerprints.{name} is missing")
    for number, teacher in enumerate(values["teachers"]):
        if not isinstance(teacher, dict) or not isinstance(teacher.get("name"), str):
            problems.append(f"teachers[{number}] is {teacher!r}, without a name")
    return problems
