"""Embeddings of the corpus and of queries by the base model, in files that the stages share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ldx.eval.embeddings import encode_to_file
from ldx.eval.encode import Kind, get_encoder
from ldx.files import fingerprint
from ldx.models.student import load_student, resolve_model_path


def model_fingerprint(model: ConfigDict) -> str:
    """What the base model's files and settings hash to."""
    folder = resolve_model_path(model.path)
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".txt", ".safetensors"})
    return fingerprint(repr(sorted(model.items())), *files)


class EmbeddingStore:
    """Embeddings of texts, made once; a stage that was killed goes on where it was.

    Args:
      folder: where they are kept, in NAME.npy.
      config: its model embeds.
    """

    def __init__(self, folder: Path, config: ConfigDict):
        self._folder = folder
        self._student = load_student(**config.model)
        tokens = config.train.microbatch_tokens
        self._encoder = get_encoder(self._student, None if tokens == "auto" else tokens)
        self._model = model_fingerprint(config.model)

    def get(self, name: str, texts: Sequence[str], kind: Kind) -> np.ndarray:
        """Embeddings float32 [num_texts, D] in the order of the texts, memory-mapped.

        What the folder has of this name and other texts, or another model, is replaced.
        """
        return encode_to_file(
            self._encoder,
            self._student.params,
            texts,
            self._folder / f"{name.replace(' ', '_')}.npy",
            kind=kind,
            key=fingerprint(self._model, *texts),
            description=name,
        )
