"""A model ready for use: it embeds queries and passages, and searches corpora.

Q queries, N passages, D dimensions.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ldx.common.errors import UserError
from ldx.common.files import atomic_write, fingerprint, folder_path, read_json, write_json
from ldx.eval.beir import Corpus, CorpusTexts, read_corpus
from ldx.models.student import Student
from ldx.models.towers import Towers, passage_fingerprint
from ldx.retrieval.encoder import encode_texts, get_encoder
from ldx.retrieval.retrieve import DEFAULT_TEMPLATE, embed_passages
from ldx.retrieval.search import search
from ldx.retrieval.store import EmbeddingStore

AnyCorpus: TypeAlias = str | Path | Corpus | Mapping[str, str] | Sequence[str]
"""A corpus as `read_passages` takes it, texts by doc_id, or texts whose ids are their numbers."""


@dataclass(frozen=True)
class Hit:
    """A passage that a search found."""

    doc_id: str
    score: float
    title: str
    text: str


@dataclass(frozen=True, eq=False)
class Index:
    """A corpus with its embeddings; `Model.index` makes one.

    Attributes:
      model: embeds the queries.
      corpus: the passages.
      embeddings: float32 [N, D], of the passages in their order.
    """

    model: "Model"
    corpus: Corpus = field(repr=False)
    embeddings: np.ndarray = field(repr=False)

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k best passages for a query, best first; the search is exact."""
        return self.search_all([query], k)[0]

    def search_all(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """The k best passages for each of several queries, best first.

        Raises:
          UserError: k is less than 1.
        """
        if k < 1:
            raise UserError(f"k={k}: wanted at least 1")
        embeddings = self.model.encode_queries(queries)
        if not len(self.corpus) or not len(embeddings):
            return [[] for _ in embeddings]
        result = search(embeddings, self.embeddings, k, index="exact")
        return [
            [self._hit(row, score) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in zip(result.rows.tolist(), result.scores.tolist(), strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Write the embeddings to PATH, an .npy file, for `Model.index` and ldx.evaluate.

        PATH.json beside it says which passages they are of, and what embedded them.
        """
        _facts_path(path).unlink(missing_ok=True)  # a kill leaves no facts of other embeddings
        with atomic_write(path, "wb") as file:
            np.save(file, self.embeddings)
        texts = CorpusTexts(self.corpus, self.model.passage_template)
        facts = self.model.passage_facts() | {"corpus": texts.fingerprint}
        write_json(_facts_path(path), facts)

    def _hit(self, row: int, score: float) -> Hit:
        corpus = self.corpus
        return Hit(corpus.doc_ids[row], score, corpus.titles[row], corpus.texts[row])


@dataclass(frozen=True, eq=False)
class Model:
    """A student with the parameters to use; `ldx.load` reads one.

    Attributes:
      student: the architecture, its tokenizer, its prompts.
      towers: the parameters that embed queries, and those that embed passages.
      name: what it was loaded by.
      passage_template: joins the title and the text of a passage of a corpus.
      store: the embeddings that a run keeps, where `index` looks passages up; None: there is none.
    """

    student: Student = field(repr=False)
    towers: Towers = field(repr=False)
    name: str = ""
    passage_template: str = DEFAULT_TEMPLATE
    store: EmbeddingStore | None = field(default=None, repr=False)

    @functools.cached_property
    def passage_fingerprint(self) -> str:
        """A digest of what makes an index: models that have the same one can share an index."""
        return passage_fingerprint(self.student, self.towers, self.passage_template)

    def passage_facts(self) -> dict[str, Any]:
        """What embeds passages, in words, and its fingerprint."""
        config = self.student.config
        return {
            "passage_model": self.name,
            "passage_prompt": config.passage_prompt,
            "passage_max_length": config.passage_max_length,
            "passage_template": self.passage_template,
            "passage_fingerprint": self.passage_fingerprint,
        }

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of queries, the model's prompt for queries before each; float32 [Q, D]."""
        return encode_texts(self.student, self.towers.query, _texts(texts), kind="query")

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of passages, the model's prompt for passages before each; float32 [N, D]."""
        embeddings = encode_texts(self.student, self.towers.passage, _texts(texts), kind="passage")
        unit_norm = self.student.config.normalize
        return self.towers.map_passages(embeddings, unit_norm=unit_norm)

    def index(
        self,
        corpus: AnyCorpus,
        *,
        cache: str | Path | None = None,
        embeddings: str | Path | np.ndarray | None = None,
    ) -> Index:
        """The corpus embedded, for searches.

        Args:
          corpus: what to search.
          cache: a folder that keeps the embeddings, so that a corpus is embedded once by the same
            tower of passages, and a stopped call goes on where it was; None keeps them in memory.
          embeddings: what `Index.save` wrote, for this corpus and by a model with the same tower of
            passages; or an array [N, D], of which nothing but the shape can be checked.

        Raises:
          UserError: the corpus cannot be read, or the embeddings are not those of its passages by
            this model.
        """
        passages = _read(corpus)
        texts = CorpusTexts(passages, self.passage_template)
        if embeddings is not None:
            return Index(self, passages, self._given(embeddings, texts))
        encoder = get_encoder(self.student, store=self.store)
        path = None
        if cache is not None:
            tower = encoder.fingerprint(self.towers.passage, "passage")
            name = f"passages-{fingerprint(tower, texts.fingerprint)}.npy"
            path = folder_path("cache", cache) / name
        return Index(self, passages, embed_passages(encoder, self.towers, texts, path=path))

    def search(
        self, query: str, corpus: AnyCorpus, k: int = 10, *, cache: str | Path | None = None
    ) -> list[Hit]:
        """The k best passages of a corpus for a query, best first.

        The corpus is embedded each time, unless `cache` names a folder; for many queries make an
        `index` once.
        """
        return self.index(corpus, cache=cache).search(query, k)

    def _given(self, embeddings: str | Path | np.ndarray, texts: CorpusTexts) -> np.ndarray:
        """Embeddings from elsewhere, after a check that they are of these texts by this model."""
        path = None if isinstance(embeddings, np.ndarray) else Path(embeddings)
        if path is None and self.towers.passage_map is not None:
            raise UserError(
                "embeddings: an array does not say whether this model's passage map is in it; give "
                "the file that Index.save wrote"
            )
        array = _load(path) if path else np.asarray(embeddings)
        shape = (len(texts), self.student.embedding_size)
        if array.shape != shape:
            raise UserError(f"{path or 'embeddings'}: of shape {array.shape}, wanted {shape}")
        return self._checked(path, array, texts) if path else array

    def _checked(self, path: Path, array: np.ndarray, texts: CorpusTexts) -> np.ndarray:
        facts = read_json(_facts_path(path)) if _facts_path(path).is_file() else None
        if not isinstance(facts, dict):
            raise UserError(
                f"{_facts_path(path)}: missing, so nothing says which model made {path}; "
                "Index.save writes both. If you know, give the array itself: numpy.load(...)"
            )
        print_of_file = facts.get("passage_fingerprint")
        if print_of_file == self.passage_fingerprint:
            mapped = array
        elif print_of_file == self._fingerprint_before_map:
            mapped = self.towers.map_passages(array, unit_norm=self.student.config.normalize)
        else:
            raise UserError(
                f"{path}: its passages were embedded by another model than that of the passages "
                f"here, and the queries of one do not fit the other\n"
                f"  there: {_in_words(facts)}\n  here:  {_in_words(self.passage_facts())}\n"
                "make it again with Index.save, or use the model it was made for"
            )
        if facts.get("corpus") != texts.fingerprint:
            raise UserError(f"{path}: made of other passages than those of this corpus")
        return mapped

    @property
    def _fingerprint_before_map(self) -> str:
        towers = Towers.of(self.towers.passage)
        return passage_fingerprint(self.student, towers, self.passage_template)


def _facts_path(path: str | Path) -> Path:
    return Path(f"{path}.json")


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not an .npy file of embeddings ({error})") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: not an .npy file of embeddings, but of several arrays")
    return array


def _in_words(facts: Mapping[str, Any]) -> str:
    """What embeds passages, by `Model.passage_facts`."""
    model, prompt, length, template = (
        facts.get(f"passage_{name}") for name in ("model", "prompt", "max_length", "template")
    )
    return f"{model}, prompt {prompt!r}, at most {length} tokens, passages as {template!r}"


def _read(corpus: AnyCorpus) -> Corpus:
    if isinstance(corpus, Corpus):
        return corpus
    if isinstance(corpus, str | Path):
        return read_corpus(corpus)
    by_id = corpus if isinstance(corpus, Mapping) else dict(enumerate(corpus))
    doc_ids = [str(doc_id) for doc_id in by_id]
    return Corpus(doc_ids, [""] * len(by_id), _texts(list(by_id.values())))


def _texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; a lone text, or what is no text, is refused."""
    if isinstance(texts, str):
        raise UserError(f"wanted a list of texts, got one text: {texts[:60]!r}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"text {number} is {type(text).__name__}, wanted a string: {text!r:.60}"
            )
    return list(texts)
