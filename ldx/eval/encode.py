"""Texts to embeddings, for evaluation, mining and search: sorted by length, with a progress bar."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from ldx.data.batching import Shapes, cut_microbatches, default_microbatch_tokens
from ldx.embedder import Embedder, Params
from ldx.models.student import Student
from ldx.models.tokenizer import pad_tokens
from ldx.progress import progress_bar
from ldx.sharding import make_mesh

Kind = Literal["query", "passage"]
TEXTS_AT_ONCE = 65_536  # tokenised together; bounds the memory, not the result


class Encoder:
    """Encodes texts with a student; its programs are compiled once a shape and then kept.

    Args:
      student: the model, its tokenizer, prompts and maximum lengths.
      mesh: the devices to use; None means all.
      microbatch_tokens: tokens in work at once; None means the device's default.
    """

    def __init__(
        self, student: Student, *, mesh: Mesh | None = None, microbatch_tokens: int | None = None
    ):
        self.student = student
        self.embedder = Embedder(student.embed, mesh or make_mesh())
        tokens = microbatch_tokens or default_microbatch_tokens(jax.default_backend())
        config = student.config
        self.shapes = Shapes.make(
            max(config.query_max_length, config.passage_max_length),
            tokens,
            num_devices=self.embedder.num_devices,
        )
        self._num_special = len(student.tokenizer.prefix) + len(student.tokenizer.suffix)

    def encode(
        self,
        params: Params,
        texts: Sequence[str],
        *,
        kind: Kind,
        description: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Embeddings of queries or passages.

        Args:
          params: the student's parameters.
          texts: without prompt; the student's prompt for `kind` goes before each.
          kind: which prompt and maximum length to use.
          description: shown beside the progress bar; "" shows none.
          check: called between micro-batches; what it raises ends the work.

        Returns:
          float32 [len(texts), D], in the order of the texts.
        """
        config, tokenizer = self.student.config, self.student.tokenizer
        is_query = kind == "query"
        prompt = config.query_prompt if is_query else config.passage_prompt
        max_length = config.query_max_length if is_query else config.passage_max_length
        blocks = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            ids = tokenizer.encode([prompt + t for t in texts[start : start + TEXTS_AT_ONCE]])
            ids = [x[: max_length - self._num_special] for x in ids]
            blocks.append(self.encode_ids(params, ids, description=description, check=check))
        return np.concatenate(blocks) if blocks else self._empty(0)

    def encode_ids(
        self,
        params: Params,
        ids: Sequence[np.ndarray],
        *,
        description: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Embeddings of texts given as token ids, prompt included, without special tokens."""
        params = self.embedder.put_params(params)
        output = self._empty(len(ids))
        lengths = np.array([len(x) for x in ids], int) + self._num_special
        under_way: tuple[np.ndarray, jax.Array] | None = None
        with progress_bar(
            total=len(ids), desc=description, unit=" texts", disable=not description
        ) as bar:
            for batch in cut_microbatches(lengths, self.shapes):
                check()
                tokens = pad_tokens(
                    [ids[i] for i in batch.texts],
                    self.student.tokenizer,
                    max_length=batch.length,
                    padded_length=batch.length,
                    num_rows=batch.rows,
                )
                embeddings = self.embedder(params, *self.embedder.put_tokens(*tokens))
                # The previous micro-batch is fetched while the device works on this one.
                self._fetch(under_way, output, bar)
                under_way = batch.texts, embeddings
            self._fetch(under_way, output, bar)
        return output

    def _empty(self, num_texts: int) -> np.ndarray:
        return np.zeros((num_texts, self.student.embedding_size), np.float32)

    def _fetch(
        self, result: tuple[np.ndarray, jax.Array] | None, output: np.ndarray, bar: Any
    ) -> None:
        if result is None:
            return
        texts, embeddings = result
        output[texts] = np.asarray(embeddings, np.float32)[: len(texts)]
        bar.update(len(texts))


@functools.lru_cache(maxsize=4)
def _encoder(student: Student, microbatch_tokens: int | None) -> Encoder:
    return Encoder(student, microbatch_tokens=microbatch_tokens)


def encode_texts(
    student: Student,
    params: Params,
    texts: Sequence[str],
    *,
    kind: Kind,
    microbatch_tokens: int | None = None,
    description: str = "",
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Embeddings float32 [len(texts), D] on all devices; see `Encoder.encode`."""
    return _encoder(student, microbatch_tokens).encode(
        params, texts, kind=kind, description=description, check=check
    )
