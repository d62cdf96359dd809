"""What the student's maximum lengths cut off, told before training and kept in WORKDIR/cut.json."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging

from ldx.common.files import read_json, write_json
from ldx.data.cut import Cut
from ldx.data.sources import Source
from ldx.eval.beir import Dataset
from ldx.models.student import Student
from ldx.models.tokenizer import num_special

CUT_NAME = "cut.json"


def report_cut(
    workdir: Path,
    sources: Mapping[str, Source],
    datasets: Mapping[str, Dataset],
    student: Student,
) -> None:
    """Log what is cut off passages and queries, a warning where it is much, and keep it.

    Args:
      workdir: the run's folder.
      sources: the sources of the run, by name.
      datasets: the test collections, by the names of the sources that have one.
      student: the model, with its maximum lengths and prompts.
    """
    cuts: dict[str, list[Cut]] = {}
    for name, source in sources.items():
        test = datasets.get(name)
        texts = list(test.queries.values()) if test else []
        prompt = source.config.query_prompt
        prompt = student.config.query_prompt if prompt is None else prompt
        lengths = [len(ids) for ids in student.tokenizer.encode([prompt + text for text in texts])]
        cuts[name] = [
            _cut(student, "passages", source.passages.lengths),
            _cut(student, "queries of the lists", source.queries.lengths),
            *([_cut(student, "test queries", np.array(lengths))] if texts else []),
        ]
    write_json(
        workdir / CUT_NAME,
        {name: [dataclasses.asdict(cut) for cut in each] for name, each in cuts.items()},
    )
    for name, each in cuts.items():
        for cut in each:
            log = logging.warning if cut.is_much else logging.info
            log("%s", f"{name}: {cut.text}" if name else cut.text)


def read_cut(workdir: Path) -> dict[str, list[Cut]]:
    """What a run noted before training, by source; empty where it noted nothing."""
    path = workdir / CUT_NAME
    stored = read_json(path) if path.is_file() else {}
    return {name: [Cut(**cut) for cut in each] for name, each in stored.items()}


def _cut(student: Student, what: str, lengths: np.ndarray) -> Cut:
    key = "passage_max_length" if what == "passages" else "query_max_length"
    limit = getattr(student.config, key)
    return Cut.of(what, f"model.{key}", limit, num_special(student.tokenizer), lengths)
