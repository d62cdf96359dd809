"""BM25 of corpora that do not fit in memory: an index in memory-mapped files, built in chunks.

The files of an index are FOLDER/KEY-ANALYZER/{terms,starts,rows,weights}.npy and meta.json.
Words are stored as 64-bit hashes, so no vocabulary is held in memory. N is the number of passages.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from data_prep.retrieval.analyzer import Analyzer
from ldx.common.files import atomic_write, read_json, write_json
from ldx.common.locks import locked
from ldx.common.progress import progress_bar
from ldx.data.tokens import Texts

K1 = 1.5
B = 0.75
TEXTS_PER_CHUNK = 50_000  # a killed build goes on after its last whole chunk
TEXTS_AT_ONCE = 2_000
MAX_CACHED_HASHES = 500_000
DENSE_SHARE = 8  # from passages / 8 matches on, scores are summed in an array of all passages


@dataclass(frozen=True, eq=False)
class Matches:
    """The passages that share a word with a query.

    Attributes:
      rows: int64 [m], the passages' rows, ascending.
      scores: float32 [m], their scores, all over 0.
    """

    rows: np.ndarray
    scores: np.ndarray

    def scores_of(self, rows: np.ndarray) -> np.ndarray:
        """Scores float32 of the passages `rows`; 0 for one that shares no word with the query."""
        if not len(self.rows):
            return np.zeros(len(rows), np.float32)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.scores[places], np.float32(0))

    def moments(self, num_passages: int) -> tuple[float, float]:
        """Mean and standard deviation of the scores of all N passages."""
        scores = self.scores.astype(np.float64)
        mean = scores.sum() / num_passages
        return mean, float(np.sqrt(max(0.0, (scores**2).sum() / num_passages - mean**2)))


class _KnownWord(NamedTuple):
    """A word of a query that the corpus has.

    Attributes:
      word: the word.
      times: how often the query has it.
      number: its place among the words of the corpus.
      idf: how rare it is there.
    """

    word: str
    times: int
    number: int
    idf: float


class Bm25:
    """An index of a corpus with Lucene's BM25, k1 = 1.5 and b = 0.75.

    score(q, p) = Σ_t tf(t, q) · idf(t) · tf(t, p) / (tf(t, p) + k1 · (1 − b + b · |p| / mean |p|))
    idf(t) = ln(1 + (N − df(t) + 0.5) / (df(t) + 0.5))

    Threads may share it.
    """

    def __init__(self, folder: str | Path):
        """Map a finished index; use `open_or_build` where it may have to be built."""
        self.folder = folder = Path(folder)
        meta = read_json(folder / "meta.json")
        self.num_passages: int = meta["num_passages"]
        self._mean_length: float = meta["mean_length"]
        self._analyzer = Analyzer(meta["language"])
        self._terms = np.load(folder / "terms.npy")
        self._starts = np.load(folder / "starts.npy")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")
        self._weights = np.load(folder / "weights.npy", mmap_mode="r")
        self._idf = _idf(np.diff(self._starts), self.num_passages)
        self._hash = _WordHashes()

    @classmethod
    def open_or_build(
        cls,
        folder: str | Path,
        texts: Texts,
        *,
        key: str,
        language: str,
        description: str = "passages",
    ) -> "Bm25":
        """Open the index of these texts under `folder`; build it when missing.

        One process builds while others wait; a killed build goes on after its last chunk.

        Args:
          folder: an index of another key or language in it is removed.
          texts: the passages; read only when building.
          key: a plain name that changes whenever any text does.
          language: that of the texts, for `Analyzer`.
          description: what the texts are, for the progress bar.
        """
        analyzer = Analyzer(language)
        target = Path(folder) / f"{key}-{analyzer.key}"
        if not (target / "meta.json").is_file():
            with locked(Path(folder) / ".lock", f"another process indexes the {description}"):
                if not (target / "meta.json").is_file():
                    for other in set(Path(folder).iterdir()) - {Path(folder) / ".lock"}:
                        if other.name not in (target.name, f".{target.name}.building"):
                            shutil.rmtree(other)
                    _build(target, texts, analyzer, description)
        return cls(target)

    def __getstate__(self) -> dict[str, Path]:
        """State to pickle: the folder, whose files are mapped again later."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Path]) -> None:
        """Map the files of a pickled index again."""
        self.__init__(state["folder"])  # type: ignore[misc]

    def rarity(self, word: str) -> float:
        """The idf of a word, which is over 0; 0 for a word that no passage has."""
        return sum(known.idf for known in self._known(self._analyzer.terms([word])[0]))

    def match(self, query: str) -> Matches:
        """All passages that share a word with a query, with their scores."""
        return self._sum(self._analyzer.terms([query])[0])

    def match_all(self, queries: Sequence[str]) -> Iterator[Matches]:
        """Matches of many queries, one query after another, as `match` gives them."""
        return map(self._sum, self._analyzer.terms(queries))

    def pair_scores(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The score of each query for its own text, which may be outside the corpus; float32 [n].

        The corpus keeps its word frequencies and its mean length.
        """
        scores = np.zeros(len(queries), np.float32)
        terms = self._analyzer.terms
        for number, (query, text) in enumerate(zip(terms(queries), terms(texts), strict=True)):
            norm = K1 * (1 - B + B * len(text) / self._mean_length)
            for known in self._known(query):
                frequency = text.count(known.word)
                scores[number] += known.times * known.idf * frequency / (frequency + norm)
        return scores

    def _sum(self, words: Iterable[str]) -> Matches:
        known_words = self._known(words)
        slices = [slice(*self._starts[word.number : word.number + 2]) for word in known_words]
        rows = [np.asarray(self._rows[part]) for part in slices]
        weights = [
            self._weights[part] * np.float32(word.times)
            for part, word in zip(slices, known_words, strict=True)
        ]
        num_matches = sum(len(each) for each in rows)
        if num_matches * DENSE_SHARE > self.num_passages:
            sums = np.zeros(self.num_passages, np.float32)
            for each, values in zip(rows, weights, strict=True):
                sums[each] += values  # a passage stands once among those of a word
            matched = np.flatnonzero(sums)
            return Matches(matched, sums[matched])
        if not num_matches:
            return Matches(np.zeros(0, np.int64), np.zeros(0, np.float32))
        matched, places = np.unique(np.concatenate(rows), return_inverse=True)
        sums = np.zeros(len(matched), np.float32)
        first = 0
        for values in weights:
            sums[places[first : first + len(values)]] += values
            first += len(values)
        return Matches(matched.astype(np.int64), sums)

    def _known(self, words: Iterable[str]) -> list[_KnownWord]:
        """The distinct words among `words` that the corpus has."""
        counts: dict[str, int] = {}
        for word in words:
            counts[word] = counts.get(word, 0) + 1
        hashes = self._hash(list(counts))
        places = np.minimum(np.searchsorted(self._terms, hashes), len(self._terms) - 1)
        return [
            _KnownWord(word, counts[word], place, float(self._idf[place]))
            for place, word, value in zip(places.tolist(), counts, hashes, strict=True)
            if len(self._terms) and self._terms[place] == value
        ]


def warn_of_no_matches(num_without: int, num_queries: int, what: str) -> None:
    """Warn where BM25 finds no passage for most of some queries."""
    if 2 * num_without > num_queries:
        logging.log_first_n(  # queries come in shards
            logging.WARNING,
            "BM25 finds nothing for %d of %d %s: they share no word with any passage, so it is of "
            "no use as a retriever or in a teacher (are queries and passages of one language?)",
            1,
            *(num_without, num_queries, what),
        )


class _WordHashes:
    """64-bit hashes of words; the same in every process."""

    def __init__(self) -> None:
        self._cache: dict[str, int] = {}

    def __call__(self, words: Sequence[str]) -> np.ndarray:
        """Hashes of words, uint64 [number of words]."""
        if len(self._cache) > MAX_CACHED_HASHES:
            self._cache = {}
        cache = self._cache
        values = []
        for word in words:
            value = cache.get(word)
            if value is None:
                digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                value = cache[word] = int.from_bytes(digest, "big")
            values.append(value)
        return np.array(values, np.uint64)


def _idf(frequency: np.ndarray, num_passages: int) -> np.ndarray:
    return np.log1p((num_passages - frequency + 0.5) / (frequency + 0.5))


def _build(target: Path, texts: Texts, analyzer: Analyzer, description: str) -> None:
    """Index chunk by chunk into a hidden folder, then join the chunks and move them in."""
    work = target.with_name(f".{target.name}.building")
    work.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(texts), TEXTS_PER_CHUNK)
    chunks = [work / f"chunk-{start:012d}.npz" for start in starts]
    hashes = _WordHashes()
    with progress_bar(total=len(texts), desc=f"BM25 of {description}", unit=" texts") as bar:
        for start, path in zip(starts, chunks, strict=True):
            size = min(TEXTS_PER_CHUNK, len(texts) - start)
            if not path.is_file():
                _write_chunk(path, texts, range(start, start + size), analyzer, hashes)
            bar.update(size)
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    _join(store, chunks, len(texts), analyzer)
    os.rename(store, target)
    shutil.rmtree(work)


def _write_chunk(
    path: Path, texts: Texts, numbers: range, analyzer: Analyzer, hashes: _WordHashes
) -> None:
    """Write how often each word stands in each of some passages, by word and then by row."""
    lengths, words, rows = [], [], []
    for start in range(numbers.start, numbers.stop, TEXTS_AT_ONCE):
        block = range(start, min(start + TEXTS_AT_ONCE, numbers.stop))
        tokens = analyzer.terms([texts[number] for number in block])
        sizes = np.array([len(each) for each in tokens], np.int32)
        lengths.append(sizes)
        rows.append(np.repeat(np.arange(block.start, block.stop, dtype=np.int32), sizes))
        words.append(hashes([word for each in tokens for word in each]))
    all_words, all_rows = np.concatenate(words), np.concatenate(rows)
    order = np.lexsort((all_rows, all_words))
    all_words, all_rows = all_words[order], all_rows[order]
    is_first = np.ones(len(all_words), bool)
    is_first[1:] = (all_words[1:] != all_words[:-1]) | (all_rows[1:] != all_rows[:-1])
    first = np.flatnonzero(is_first)
    counts = np.diff(np.append(first, len(all_words)))
    terms, frequency = np.unique(all_words[first], return_counts=True)
    with atomic_write(path, "wb") as file:
        np.savez(
            file,
            lengths=np.concatenate(lengths),
            terms=terms,
            frequency=frequency,
            rows=all_rows[first],
            counts=np.minimum(counts, 2**16 - 1).astype(np.uint16),
        )


def _join(folder: Path, chunks: Sequence[Path], num_passages: int, analyzer: Analyzer) -> None:
    """Join the chunks into one index, and compute the weight of each word in each passage."""
    terms, frequency = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    num_words = 0
    for path in chunks:
        with np.load(path) as chunk:
            both = np.concatenate([terms, chunk["terms"]])
            counts = np.concatenate([frequency, chunk["frequency"]])
            num_words += int(chunk["lengths"].sum())
        terms, places = np.unique(both, return_inverse=True)
        frequency = np.bincount(places, counts, minlength=len(terms)).astype(np.int64)
    mean_length = max(1.0, num_words / max(1, num_passages))
    idf = _idf(frequency, num_passages)
    starts = np.concatenate([[0], np.cumsum(frequency)]).astype(np.int64)
    shape = (max(1, int(starts[-1])),)  # an empty file cannot be mapped
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.int32, shape)
    weights = np.lib.format.open_memmap(folder / "weights.npy", "w+", np.float32, shape)
    filled = starts[:-1].copy()
    first_row = 0
    for path in chunks:
        with np.load(path) as chunk:
            lengths, sizes = chunk["lengths"], chunk["frequency"]
            chunk_rows, counts = chunk["rows"], chunk["counts"].astype(np.float64)
            number = np.searchsorted(terms, chunk["terms"])
        offsets = np.arange(len(chunk_rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        targets = np.repeat(filled[number], sizes) + offsets
        norm = K1 * (1 - B + B * lengths / mean_length)
        rows[targets] = chunk_rows
        saturated = counts / (counts + norm[chunk_rows - first_row])
        weights[targets] = saturated * np.repeat(idf[number], sizes)
        filled[number] += sizes
        first_row += len(lengths)
    for array in (rows, weights):
        array.flush()
    np.save(folder / "terms.npy", terms)
    np.save(folder / "starts.npy", starts)
    meta = {"num_passages": num_passages, "mean_length": float(mean_length)}
    write_json(folder / "meta.json", {**meta, "language": analyzer.language})
