"""Scores read from a file, a TREC run or a table, so that any teacher may run elsewhere."""

import enum
import math
from pathlib import Path

import numpy as np

from data_prep.retrieval.run_table import read_run_table
from data_prep.teachers.base import Pairs, Problem
from ldx.common.errors import UserError
from ldx.common.files import fingerprint

RUN_FILE_VERSION = "run_file 1"


class Scale(enum.StrEnum):
    """The scale of the scores in a file."""

    AS_THEY_ARE = "as_they_are"
    PROBABILITY = "probability"
    LOG_PROBABILITY = "log_probability"


RANGES = {
    Scale.AS_THEY_ARE: (-math.inf, math.inf),
    Scale.PROBABILITY: (0.0, 1.0),
    Scale.LOG_PROBABILITY: (-math.inf, 0.0),
}
MAX_LOGIT = 20.0


class RunFile:
    """A teacher whose scores stand in a file by query id and passage id; NaN where one is missing.

    The first line may name the columns, which may then stand in any order. In memory a score takes
    16 bytes, and an id is stored once.

    Args:
      path: the file; gzip where its name ends in .gz.
      scores: the scale of the scores: as_they_are; probability or log_probability (natural) of
        relevance, which become logits, because the best probabilities are all nearly 1.

    Raises:
      UserError: there is no such file, it has bad lines, which are named, or its scores are not
        what `scores` says.
    """

    def __init__(self, path: str, scores: str = Scale.AS_THEY_ARE.value):
        self._path = Path(path).expanduser()
        if scores not in list(Scale):
            raise UserError(f"scores={scores!r} of {path}: wanted {', '.join(Scale)}")
        self.problems: list[Problem] = []
        self._table = read_run_table(self._path)
        self.fingerprint = fingerprint(RUN_FILE_VERSION, self._path, scores)
        self._scale = Scale(scores)
        least, most = self._table.range
        low, high = RANGES[self._scale]
        if least < low or most > high:
            raise UserError(
                f"scores={scores!r} of {path}: they lie from {least:g} to {most:g}; wanted from "
                f"{low:g} to {high:g}"
            )

    def score(self, pairs: Pairs) -> np.ndarray:
        """Scores float32 [N]; see `data_prep.teachers.base.Teacher`."""
        scores = _as_logits(self._table.look_up(pairs.query_ids, pairs.doc_ids), self._scale)
        self.problems = [
            Problem(pairs.query_ids[i], pairs.doc_ids[i], f"{self._path} has no such pair")
            for i in np.flatnonzero(np.isnan(scores)).tolist()
        ]
        return scores


def _as_logits(scores: np.ndarray, scale: Scale) -> np.ndarray:
    """Logits of float32 [N] scores, from −MAX_LOGIT to MAX_LOGIT; scores as they are stay."""
    if scale is Scale.AS_THEY_ARE:
        return scores
    values = scores.astype(np.float64)
    with np.errstate(divide="ignore"):
        log = np.log(values) if scale is Scale.PROBABILITY else values
        log_other = np.log(-np.expm1(log))
    return np.clip(log - log_other, -MAX_LOGIT, MAX_LOGIT).astype(np.float32)
