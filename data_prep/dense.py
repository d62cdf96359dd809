"""Embeddings of the corpus and of queries by the base model, kept on disk block by block."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from ml_collections import ConfigDict

from ldx.files import atomic_write, fingerprint

BLOCK = 4096

Kind = Literal["query", "passage"]
Encode = Callable[[Sequence[str], Kind, str], np.ndarray]
"""encode(texts, kind, description) → float32 [num_texts, D]."""


def load_encoder(model: ConfigDict, microbatch_tokens: int | None) -> Encode:
    """The base model as a function."""
    from ldx.eval.encode import encode_texts
    from ldx.models.student import load_student

    student = load_student(**model)

    def encode(texts: Sequence[str], kind: Kind, description: str) -> np.ndarray:
        return encode_texts(
            student,
            student.params,
            texts,
            kind=kind,
            microbatch_tokens=microbatch_tokens,
            description=description,
        )

    return encode


def model_fingerprint(model: ConfigDict) -> str:
    """What the base model's files and settings hash to."""
    from ldx.models.student import resolve_model_path

    folder = resolve_model_path(model.path)
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".txt", ".safetensors"})
    return fingerprint(repr(sorted(model.items())), *files)


class EmbeddingStore:
    """Embeddings of texts, computed once; a block that is on disk is not computed again."""

    def __init__(self, folder: Path, encode: Callable[[], Encode], model: str):
        """`encode` is called, and the model loaded, only when something is missing."""
        self._folder, self._make_encode, self._model = folder, encode, model
        self._encode: Encode | None = None

    def get(self, texts: Sequence[str], kind: Kind, description: str) -> np.ndarray:
        """Embeddings float32 [num_texts, D] in the order of the texts."""
        num_blocks = -(-len(texts) // BLOCK)
        blocks = []
        for number in range(num_blocks):
            block = texts[number * BLOCK : (number + 1) * BLOCK]
            note = description if num_blocks == 1 else f"{description} {number + 1}/{num_blocks}"
            blocks.append(self._block(block, kind, note))
        return np.concatenate(blocks)

    def _block(self, texts: Sequence[str], kind: Kind, description: str) -> np.ndarray:
        path = self._folder / f"{fingerprint(self._model, kind, *texts)}.npy"
        if path.is_file():
            return np.load(path)
        self._encode = self._encode or self._make_encode()
        embeddings = np.asarray(self._encode(texts, kind, description), np.float32)
        with atomic_write(path, "wb") as file:
            np.save(file, embeddings)
        return embeddings


def open_store(folder: Path, config: ConfigDict) -> EmbeddingStore:
    """The embeddings of the config's base model in a folder."""
    tokens = config.train.microbatch_tokens
    tokens = None if tokens == "auto" else tokens
    model = config.model
    return EmbeddingStore(folder, lambda: load_encoder(model, tokens), model_fingerprint(model))
