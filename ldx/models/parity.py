"""The check that an exported folder embeds as the model in memory does."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.types import Params
from ldx.models.st_folder import read_towers
from ldx.models.student import Student, load_tower
from ldx.models.tokenizer import num_special, pad_tokens
from ldx.models.towers import Towers, load_towers

MIN_COSINE = 0.9999
CHECK_ROWS = 20  # texts embedded together in the check


def check_export(student: Student, towers: Towers, folder: Path, texts: Sequence[str]) -> None:
    """Check that embeddings of the model in memory and of the model read back agree.

    Raises:
      UserError: they differ in direction or in length.
    """
    assert texts, "nothing to check with"
    queries, passages = list(texts[::2]), list(texts[1::2])
    ours = _embed_both(student, towers, queries, passages)
    if _has_sentence_transformers():
        reader = "sentence-transformers"
        theirs = _embed_by_sentence_transformers(folder, queries, passages)
    else:
        reader = "ldx"
        theirs = _embed_both(*_read_back(folder), queries, passages)
    norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(axis=1) / (norms[0] * norms[1])
    same_length = np.abs(norms[0] / norms[1] - 1) <= 1 - MIN_COSINE
    if not ((cosine >= MIN_COSINE) & same_length).all():
        raise UserError(
            f"{folder.name}: the export does not embed as the trained model does (read back by "
            f"{reader}: least cosine {cosine.min():.6f} over {len(texts)} texts, wanted "
            f"{MIN_COSINE}); nothing was written"
        )
    logging.info(
        "%d texts embedded by ldx and by %s from the export: cosine at least %.6f",
        len(texts),
        reader,
        cosine.min(),
    )


def _read_back(folder: Path) -> tuple[Student, Towers]:
    if declared := read_towers(folder):
        return load_towers(declared)
    student = load_tower(folder)
    return student, Towers.of(student.params)


def _embed_both(
    student: Student, towers: Towers, queries: Sequence[str], passages: Sequence[str]
) -> np.ndarray:
    """Embeddings of queries and then passages; texts are cut as the export cuts them."""
    config = student.config
    lengths = (config.query_max_length, config.passage_max_length)
    query_length, passage_length = (config.max_length,) * 2 if towers.are_one else lengths
    prompted = [config.query_prompt + text for text in queries]
    first = embed(student, towers.query, prompted, query_length)
    prompted = [config.passage_prompt + text for text in passages]
    second = embed(student, towers.passage, prompted, passage_length)
    second = towers.map_passages(second, unit_norm=config.normalize)
    return np.concatenate([first, second])


def embed(
    student: Student, params: Params, texts: Sequence[str], max_length: int | None = None
) -> np.ndarray:
    """Embeddings float32 [len(texts), D] on one device."""
    if not texts:
        return np.zeros((0, student.embedding_size), np.float32)
    ids = student.tokenizer.encode(texts)
    max_length = max_length or student.config.max_length
    padded_length = min(max_length, max(len(x) for x in ids) + num_special(student.tokenizer))
    embed_rows = jax.jit(student.embed)
    params = jax.tree.map(jnp.asarray, params)
    parts = []
    for start in range(0, len(ids), CHECK_ROWS):
        batch = pad_tokens(
            ids[start : start + CHECK_ROWS],
            student.tokenizer,
            max_length=max_length,
            padded_length=padded_length,
            num_rows=CHECK_ROWS,
        )
        parts.append(np.asarray(embed_rows(params, *batch), np.float32))
    return np.concatenate(parts)[: len(texts)]


def _has_sentence_transformers() -> bool:
    """Whether sentence-transformers is there and can be imported."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return False
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        logging.warning("sentence-transformers is installed but cannot be imported: %s", error)
        return False
    return True


def _embed_by_sentence_transformers(
    folder: Path, queries: list[str], passages: list[str]
) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    parts = [
        encode(texts, show_progress_bar=False)
        for encode, texts in ((model.encode_query, queries), (model.encode_document, passages))
        if texts
    ]
    return np.concatenate(parts)
