"""A bi-encoder for data preparation: embeddings in memory, or in files that stages share.

JAX is imported when a model is loaded: stages that need none start in a third of the time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldx.common.files import fingerprint
from ldx.data.tokens import Texts
from ldx.models.locate import resolve_model_path

if TYPE_CHECKING:
    from ldx.retrieval.encoder import Kind

NEUTRAL_MODEL_KEYS = ("attention", "remat")  # how embeddings are computed, not which they are


def model_fingerprint(model: Mapping[str, Any]) -> str:
    """A hash of a model's files and settings, without those that only say how it computes."""
    model = {key: value for key, value in model.items() if key not in NEUTRAL_MODEL_KEYS}
    folder = resolve_model_path(model["path"])
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".txt", ".safetensors"})
    return fingerprint(repr(sorted(model.items())), *files)


class DenseModel:
    """A model that embeds texts as a student of ldx does.

    Args:
      name: the retriever's name, for the folder of its embeddings and for messages.
      model: the keys of `config.model`.
      microbatch_tokens: how many tokens a device works on at once, or "auto".
      workdir: the folder whose store keeps the embeddings; None: they are not kept.
    """

    def __init__(
        self,
        name: str,
        model: Mapping[str, Any],
        microbatch_tokens: int | str = "auto",
        workdir: Path | None = None,
    ):
        from ldx.models.student import load_student
        from ldx.retrieval.encoder import get_encoder
        from ldx.retrieval.store import get_store

        self._name = name
        self._student = load_student(**model)
        tokens = None if isinstance(microbatch_tokens, str) else microbatch_tokens
        self._encoder = get_encoder(self._student, tokens, workdir and get_store(workdir))
        self._fingerprint = model_fingerprint(model)

    def embed(self, texts: Sequence[str], kind: "Kind") -> np.ndarray:
        """Embeddings float32 [num_texts, D]."""
        if not len(texts):
            return np.zeros((0, self._student.embedding_size), np.float32)
        return self._encoder.encode(self._student.params, texts, kind=kind)

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, without special tokens or prompt."""
        return [len(ids) for ids in self._student.tokenizer.encode(list(texts))]

    def embed_to_file(
        self, folder: Path, what: str, texts: Texts, kind: "Kind", key: str
    ) -> np.ndarray:
        """Embeddings float32 [num_texts, D], memory-mapped; made once, also across kills.

        Args:
          folder: the file is FOLDER/embeddings/NAME/WHAT.npy; one of another key or model is
            replaced.
          what: a name for the texts, such as `passages`.
          texts: read only when they are embedded.
          kind: whether they are queries or passages.
          key: changes whenever any text does.
        """
        from ldx.retrieval.embeddings_file import encode_to_file

        return encode_to_file(
            self._encoder,
            self._student.params,
            texts,
            folder / "embeddings" / self._name / f"{what.replace(' ', '_')}.npy",
            kind=kind,
            key=fingerprint(self._fingerprint, key),
            description=f"{what} ({self._name})",
        )
