"""The encoder: texts to embeddings, sorted by length, for evaluation, mining and search."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ldx.common.files import fingerprint
from ldx.common.progress import progress_bar
from ldx.common.types import Params
from ldx.data.batching import MicroBatch, Shapes, cut_microbatches, default_microbatch_tokens
from ldx.data.tokens import Texts
from ldx.models.student import Kind, Student
from ldx.models.tokenizer import pad_tokens
from ldx.parallel.embedder import Embedder, compile_together
from ldx.parallel.mesh import make_local_mesh, to_host
from ldx.retrieval.store import EmbeddingStore, ModelEmbeddings, text_keys

MAX_BLOCK_TEXTS = 65_536
"""The most texts that are sorted together, and in memory together."""
BLOCK_TOKENS = 4
"""Tokens of a micro-batch for each text of a block: of passages, that is some fifty micro-batches.

Larger blocks have a little less padding (1% on scifact), but leave more to do again after a kill.
"""


class Encoder:
    """Encodes texts with a student; a program is compiled once for each shape and then kept.

    Texts are worked on in blocks, each sorted by length; while the devices embed a block, a thread
    tokenises the next.

    Args:
      student: the model, its tokenizer, prompts and maximum lengths.
      mesh: the devices to use; None means all of this process.
      microbatch_tokens: tokens in work at once on a device; None means the device's default.
      shapes: the micro-batches allowed, instead of those of `microbatch_tokens`.
      store: where embeddings are kept and looked up; None: every text is embedded.
    """

    def __init__(
        self,
        student: Student,
        *,
        mesh: Mesh | None = None,
        microbatch_tokens: int | None = None,
        shapes: Shapes | None = None,
        store: EmbeddingStore | None = None,
    ):
        self.student = student
        self.embedder = Embedder(student.embed, mesh or make_local_mesh())
        tokens = microbatch_tokens or default_microbatch_tokens(jax.default_backend())
        config = student.config
        self.shapes = shapes or Shapes.make(
            max(config.query_max_length, config.passage_max_length),
            tokens,
            num_devices=self.embedder.num_devices,
        )
        in_work = max(rows * length for rows, length in self.shapes.shapes)
        self.block_texts = min(max(in_work // BLOCK_TOKENS, 1), MAX_BLOCK_TEXTS)
        self._store = store
        self._num_special = len(student.tokenizer.prefix) + len(student.tokenizer.suffix)

    def encode(
        self,
        params: Params,
        texts: Texts,
        *,
        kind: Kind,
        description: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Embeddings of queries or passages, in memory.

        Args:
          params: the student's parameters.
          texts: without prompt; the student's prompt for `kind` goes before each.
          kind: which prompt and maximum length to use.
          description: shown beside the progress bar; "" shows none.
          check: called between micro-batches; what it raises ends the work.

        Returns:
          float32 [len(texts), D], in the order of the texts.
        """
        output = self._empty(len(texts))
        blocks = self.encode_blocks(params, texts, kind=kind, description=description, check=check)
        for start, embeddings in blocks:
            output[start : start + len(embeddings)] = embeddings
        return output

    def encode_blocks(
        self,
        params: Params,
        texts: Texts,
        *,
        kind: Kind,
        start: int = 0,
        description: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Embeddings block by block; arguments as of `encode`.

        Args:
          params: see `encode`.
          texts: without prompt; they are read block by block.
          kind: see `encode`.
          start: the text to begin with; a multiple of `block_texts` gives the same blocks, and so
            the same embeddings, as beginning with the first text.
          description: see `encode`.
          check: see `encode`.

        Yields:
          The number of a block's first text, and float32 [texts of the block, D].
        """
        store = self._store.of(self.student, params) if self._store else None
        params = self.embedder.put_params(params)
        starts = range(start, len(texts), self.block_texts)
        unit = " queries" if kind == "query" else " docs"
        bar = self._bar(len(texts), description, unit, initial=start)
        with ThreadPoolExecutor(1) as tokenizing, bar:
            # At most two blocks of token ids are in memory.
            ahead = [tokenizing.submit(self._tokenize, texts, first, kind) for first in starts[:1]]
            for first in starts:
                ids = ahead.pop().result()
                following = first + self.block_texts
                if following < len(texts):
                    ahead.append(tokenizing.submit(self._tokenize, texts, following, kind))
                yield first, self._embed(params, ids, check, bar.update, store)

    def encode_ids(
        self,
        params: Params,
        ids: Sequence[np.ndarray],
        *,
        description: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Embeddings of texts given as token ids, prompt included, without special tokens."""
        with self._bar(len(ids), description, " texts") as bar:
            store = self._store.of(self.student, params) if self._store else None
            params = self.embedder.put_params(params)
            return self._embed(params, ids, check, bar.update, store)

    def compile(self, params: Params, ids: Sequence[np.ndarray]) -> None:
        """Compile the programs that `encode_ids` needs for these texts.

        Where a store has a part of them, other shapes may be needed, which are compiled then.
        """
        lengths = np.array([len(x) for x in ids], int) + self._num_special
        shapes = {(b.rows, b.length) for b in cut_microbatches(lengths, self.shapes)}
        params = self.embedder.put_params(params)
        compile_together([self.embedder.lower(params, shape) for shape in sorted(shapes)])

    def fingerprint(self, params: Params, kind: Kind) -> str:
        """A digest of all that decides the embeddings of queries, or of passages.

        It does not know the other side, so that models which share one share its embeddings.
        """
        leaves = (to_host(leaf).tobytes() for leaf in jax.tree.leaves(params))
        student = self.student
        side = repr((kind, *student.config.prompt_and_length(kind)))
        return fingerprint(student.architecture, student.tokenizer.fingerprint, side, *leaves)

    def _bar(self, total: int, description: str, unit: str, initial: int = 0) -> tqdm:
        # Without smoothing, speed and time left are those of the whole work and not of long texts.
        return progress_bar(
            total=total,
            initial=initial,
            desc=description,
            unit=unit,
            disable=not description,
            smoothing=0,
        )

    def _tokenize(self, texts: Texts, start: int, kind: Kind) -> list[np.ndarray]:
        """Token ids of the block that begins at `start`, cut to the maximum length."""
        prompt, max_length = self.student.config.prompt_and_length(kind)
        stop = min(start + self.block_texts, len(texts))
        ids = self.student.tokenizer.encode([prompt + texts[i] for i in range(start, stop)])
        return [x[: max_length - self._num_special] for x in ids]

    def _embed(
        self,
        params: Params,
        ids: Sequence[np.ndarray],
        check: Callable[[], None],
        update: Callable[[int], object],
        store: ModelEmbeddings | None,
    ) -> np.ndarray:
        """Embeddings of texts that are sorted together; `update` is told of finished texts."""
        if store is None:
            return self._compute(params, ids, check, update)
        keys, output = text_keys(ids), self._empty(len(ids))
        is_there, embeddings = store.read(keys)
        output[is_there] = embeddings
        numbers = np.flatnonzero(~is_there)
        update(len(ids) - len(numbers))
        if len(numbers):
            _, first, text_of = np.unique(
                keys[numbers], axis=0, return_index=True, return_inverse=True
            )
            update(len(numbers) - len(first))
            distinct = numbers[first]
            embeddings = self._compute(params, [ids[i] for i in distinct], check, update)
            store.write(keys[distinct], embeddings)
            output[numbers] = embeddings[text_of.ravel()]
        return output

    def _compute(
        self,
        params: Params,
        ids: Sequence[np.ndarray],
        check: Callable[[], None],
        update: Callable[[int], object],
    ) -> np.ndarray:
        """Embeddings of texts by the model."""
        output = self._empty(len(ids))
        lengths = np.array([len(x) for x in ids], int) + self._num_special
        under_way: list[tuple[np.ndarray, jax.Array]] = []

        def fetch() -> None:
            texts, embeddings = under_way.pop(0)
            output[texts] = to_host(embeddings)[: len(texts)]
            update(len(texts))

        for batch in _mixed(cut_microbatches(lengths, self.shapes)):
            check()
            tokens = pad_tokens(
                [ids[i] for i in batch.texts],
                self.student.tokenizer,
                max_length=batch.length,
                padded_length=batch.length,
                num_rows=batch.rows,
            )
            embeddings = self.embedder(params, *self.embedder.put_tokens(*tokens))
            under_way.append((batch.texts, embeddings))
            # The previous micro-batch is fetched while the devices work on this one.
            if len(under_way) > 1:
                fetch()
        while under_way:
            fetch()
        return output

    def _empty(self, num_texts: int) -> np.ndarray:
        return np.zeros((num_texts, self.student.embedding_size), np.float32)


def _mixed(batches: list[MicroBatch]) -> list[MicroBatch]:
    """The longest texts first, so that memory that is short runs out at once; the rest mixed.

    Long and short texts mixed show the speed of the whole work from the start.
    """
    order = np.random.default_rng(0).permutation(np.arange(1, len(batches)))
    return batches[:1] + [batches[i] for i in order]


@functools.lru_cache(maxsize=4)
def get_encoder(
    student: Student,
    microbatch_tokens: int | None = None,
    store: EmbeddingStore | None = None,
) -> Encoder:
    """The encoder of a student on all devices; asked again, the same one."""
    return Encoder(student, microbatch_tokens=microbatch_tokens, store=store)


def encode_texts(
    student: Student,
    params: Params,
    texts: Texts,
    *,
    kind: Kind,
    microbatch_tokens: int | None = None,
    description: str = "",
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Embeddings float32 [len(texts), D] on all devices; see `Encoder.encode`."""
    return get_encoder(student, microbatch_tokens).encode(
        params, texts, kind=kind, description=description, check=check
    )
