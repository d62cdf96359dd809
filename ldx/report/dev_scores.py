"""The student's scores of a source's dev lists, before training and after, kept on disk.

Shapes: N dev lists, L list entries, P distinct passages of these lists.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging

from ldx.common.files import atomic_write
from ldx.data.lists import ListTable
from ldx.eval.report import BASE, TRAINED
from ldx.models.student import Student
from ldx.models.towers import Towers
from ldx.records.manifest import Manifest
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import ListSet, PassageSet, PassageTexts
from ldx.retrieval.embeddings_file import encode_to_file
from ldx.retrieval.encoder import Encoder, get_encoder
from ldx.retrieval.pool import ndcg_in_pool, relevant_passages
from ldx.retrieval.store import EmbeddingStore

NAME = "dev_scores.npz"
EMBEDDINGS_NAME = ".dev_embeddings"
SYSTEMS = (BASE, TRAINED)
ENTRIES_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class DevScores:
    """The student's scores of the dev lists, by system (base, trained).

    Attributes:
      table: the dev lists.
      scores: float32 [N, L], dot products of query and passage; 0 at padding.
      ndcg: float64 [N], nDCG@10 of each list's query among all P passages of the dev lists; see
        `relevant_passages`.
      num_passages: P.
    """

    table: ListTable
    scores: dict[str, np.ndarray]
    ndcg: dict[str, np.ndarray]
    num_passages: int


def make_dev_scores(
    folder: Path,
    records: str | Path,
    manifest: Manifest,
    student: Student,
    towers: Mapping[str, Callable[[], Towers] | None],
    *,
    list_size: int | None = None,
    microbatch_tokens: int | None = None,
    store: EmbeddingStore | None = None,
    description: str = "",
    check: Callable[[], None] = lambda: None,
) -> DevScores:
    """Score the dev lists with every system, and keep the scores in FOLDER/dev_scores.npz.

    A kill costs one block of embeddings, as for `ldx.retrieval.embeddings_file.encode_to_file`.

    Args:
      folder: where the scores are kept.
      records: the folder of the source's records.
      manifest: of these records.
      student: with the prompts of the source.
      towers: functions that give the parameters, by system, called only where scores are missing;
        None stands for the parameters of the system before it.
      list_size: the size that longer lists are cut to.
      microbatch_tokens: tokens in work at once; None means the device's default.
      store: where embeddings are looked up and kept.
      description: goes before "passages" and "queries" at the progress bars.
      check: called between micro-batches; what it raises ends the work.

    Raises:
      UserError: records are damaged.
    """
    numbers: dict[str, int] = {}
    table = ListTable.read(
        ListSet(records, "dev"),
        numbers,
        list_size=list_size,
        only=lambda record: record.query_type != HUMAN_DEV,  # those have no loss, and no teacher
    )
    rows = np.unique(table.rows[table.where])
    path = folder / NAME
    if not path.exists():
        passages = PassageTexts(
            PassageSet(records), template=manifest.passage_template, max_chars=manifest.max_chars
        )
        key = f"{manifest.fingerprints} {passages!r} {list_size}"
        encoder = get_encoder(student, microbatch_tokens, store)
        maker = _Maker(table, list(numbers), passages, rows, encoder, key)
        arrays: dict[str, np.ndarray] = {}
        values: dict[str, np.ndarray] = {}
        for system, get_towers in towers.items():
            if get_towers is not None:
                logging.info("scoring the dev lists of %s with the %s model", description, system)
                cache = folder / EMBEDDINGS_NAME / f"{system}.npy"
                values = maker.make(get_towers(), cache, f"{description} dev, {system}:", check)
            arrays |= {f"{name}_{system}": array for name, array in values.items()}
        with atomic_write(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        shutil.rmtree(folder / EMBEDDINGS_NAME, ignore_errors=True)
    with np.load(path, allow_pickle=False) as stored:
        scores = {system: stored[f"scores_{system}"] for system in towers}
        ndcg = {system: stored[f"ndcg_{system}"] for system in towers}
    return DevScores(table, scores, ndcg, len(rows))


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes scores and nDCG for one set of parameters after another."""

    table: ListTable
    queries: list[str]
    passages: PassageTexts
    rows: np.ndarray
    encoder: Encoder
    key: str

    def make(
        self, towers: Towers, cache: Path, label: str, check: Callable[[], None]
    ) -> dict[str, np.ndarray]:
        texts = _Selected(self.passages, self.rows)
        passages = encode_to_file(
            self.encoder, towers.passage, texts, cache, kind="passage", key=self.key,
            description=f"{label} passages", check=check,
        )  # fmt: skip
        unit_norm = self.encoder.student.config.normalize
        passages = towers.map_passages(passages, unit_norm=unit_norm)
        distinct = self.encoder.encode(
            towers.query, self.queries, kind="query", description=f"{label} queries", check=check
        )
        queries = distinct[self.table.query]
        return {"scores": self._scores(queries, passages), "ndcg": self._ndcg(queries, passages)}

    def _scores(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        table = self.table
        index = np.searchsorted(self.rows, np.where(table.where, table.rows, self.rows[0]))
        scores = np.zeros(index.shape, np.float32)
        step = max(1, ENTRIES_AT_ONCE // table.list_size)
        for start in range(0, len(table), step):
            part = slice(start, start + step)
            scores[part] = np.einsum("nd,nld->nl", queries[part], passages[index[part]])
        return np.where(table.where, scores, np.float32(0))

    def _ndcg(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        table = self.table
        qrels = {list_id: relevant_passages(table, i) for i, list_id in enumerate(table.list_ids)}
        values = ndcg_in_pool(qrels, queries, passages, self.rows)
        return np.array([values[list_id] for list_id in table.list_ids])


class _Selected:
    """The texts of some rows."""

    def __init__(self, texts: PassageTexts, rows: np.ndarray):
        self._texts, self._rows = texts, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int, /) -> str:
        return self._texts[int(self._rows[number])]
