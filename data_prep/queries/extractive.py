"""Queries cut out of a passage: a sentence, its keywords, a title-like phrase, or its conclusion.

They need no language model. Which words are chosen depends on the seed, the passage and the query
type alone.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data_prep.corpora.passages import Passages, passages_of, passages_payload
from data_prep.engines.shards import (
    Engine,
    Made,
    Payload,
    Shard,
    ShardFolder,
    json_lines,
    read_json_lines,
    shard_key,
)
from data_prep.pipeline.draws import pick
from data_prep.pipeline.settings import EXTRACTIVE_CHOICES, types_of
from data_prep.pipeline.workspace import Workspace
from data_prep.queries.query import Query
from data_prep.retrieval.analyzer import Analyzer
from data_prep.retrieval.bm25 import Bm25
from data_prep.retrieval.retrievers import corpus_bm25
from ldx.common.errors import UserError
from ldx.records.sets import PassageSet

SENTENCE_WORDS = (5, 30)
KEYWORDS = (3, 6)
TITLE_WORDS = (3, 9)
MIN_PROSE = 0.7
MAX_CACHED_WORDS = 100_000

_WORD = re.compile(r"\w[\w'-]*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(`*])")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|cf|etc|vs|Fig|Eq|al|resp|[A-Z])\.$")
_MARKUP = [
    (re.compile(r":[\w:.-]+:`~?([^`<]*)(<[^`>]*>)?`"), r"\1"),
    (re.compile(r"`+_*|\*\*|\[\d+\]_?"), ""),
    (re.compile(r"::$"), ":"),
]
# Console sessions, tables, parameter lists, field lists, directives and section headings.
_NO_PROSE = re.compile(
    r"^(>>>|\.\.\.|\.\. |:\w+|[-=~^+|#\d\[({]|array\("
    r"|\*{0,2}\w+(, \*{0,2}\w+)*\s*:(\s|$)|[\w ]+:?$)"
)
_BULLET = re.compile(r"^[*•-]\s+")
_CLAUSE_END = re.compile(
    r"[,;:()]|\b(which|that|when|where|if|because|while|so|but|and then|such as|unless|since|as)\b",
    re.IGNORECASE,
)
# What leads up to the claim of a concluding sentence: a heading, or "our results suggest that".
_CONCLUSION_HEADING = re.compile(
    r"^\W*(conclusions?|interpretation|in conclusion|in summary|to conclude|taken together)\b\W*",
    re.IGNORECASE,
)
_CONCLUSION_LEAD = re.compile(
    r"^.{0,80}?\b(suggest|show|demonstrate|indicate|conclude|concluded|found|find|reveal|report"
    r"|confirm|support the hypothesis|evidence)(s|ed|ing)?\s+(here\s+)?that\s+",
    re.IGNORECASE,
)
_NO_CONCLUSION = re.compile(
    r"\b(copyright|rights reserved|elsevier|further (research|studies)|future (research|studies)"
    r"|more .*studies|(is|are|will be) (discussed|reviewed|described|presented))\b",
    re.IGNORECASE,
)
_MORE_EMPTY_WORDS = """
    we our us it its you your this these those he she they them his her their there here who
    can could may might should would must has have had do does did been being also thus however
    therefore hence moreover furthermore returns return returned note see given use used using
    uses function method class object e.g i.e from than then how what whether any all each some
    only more most between into over under about after before both such"""


class Extractor:
    """Cuts queries of several types out of the passages of one corpus."""

    def __init__(self, rarity: Callable[[str], float], seed: int):
        """Make an extractor.

        Args:
          rarity: gives a word's idf in the corpus, and 0 for a word that is not in it.
          seed: the seed of the run.
        """
        self._seed = seed
        self._rarity = functools.lru_cache(MAX_CACHED_WORDS)(rarity)
        self._makers: dict[str, Callable[[list[str], tuple[str, ...]], tuple[str, str]]] = {
            "sentence": self._sentence,
            "keywords": self._keywords,
            "title": self._title,
            "conclusion": self._conclusion,
        }

    def make(self, query_type: str, doc_id: str, text: str) -> tuple[str, str]:
        """A query of a type in EXTRACTIVE_CHOICES for a passage, and the sentence it was cut from.

        The sentence is "" for keywords, which come from the whole passage. Both are "" where the
        passage holds nothing suitable.
        """
        sentences = split_sentences(text)
        if not sentences:
            return "", ""
        return self._makers[query_type](sentences, (doc_id, query_type))

    def _sentence(self, sentences: list[str], names: tuple[str, ...]) -> tuple[str, str]:
        """One of the three sentences from the median of information upwards.

        The least informative sentences are boilerplate, the most informative are lists of names.
        """
        low, high = SENTENCE_WORDS
        fitting = [s for s in sentences if low <= len(_WORD.findall(s)) <= high]
        if not fitting:
            return "", ""
        information = np.array([self._information(s) for s in fitting])
        order = np.argsort(information, kind="stable")
        nearest = order[len(order) // 2 :][:3]
        sentence = fitting[nearest[pick(len(nearest), self._seed, *names)]]
        return sentence.rstrip(" .:;,"), sentence

    def _keywords(self, sentences: list[str], names: tuple[str, ...]) -> tuple[str, str]:
        """The words with the highest TF-IDF, in the order in which they appear."""
        words = [w for w in _terms(" ".join(sentences)) if self._rarity(w) > 0]
        counts = {word: words.count(word) for word in dict.fromkeys(words)}
        low, high = KEYWORDS
        if len(counts) < low:
            return "", ""
        best = sorted(counts, key=lambda w: -(counts[w] ** 0.5) * self._rarity(w))
        chosen = set(best[: low + pick(high - low + 1, self._seed, *names)])
        return " ".join(word for word in counts if word in chosen), ""

    def _title(self, sentences: list[str], names: tuple[str, ...]) -> tuple[str, str]:
        """The head of one of the two sentences that cover most of the passage's terms."""
        terms = _terms(" ".join(sentences))
        heads = [(head, s) for s in sentences if (head := _head_phrase(s))]
        if not heads:
            return "", ""
        weight = {w: terms.count(w) * self._rarity(w) for w in set(terms)}
        # math.fsum is exact: a plain sum would depend on the order of the set, which differs
        # between processes.
        central = [math.fsum(weight.get(w, 0.0) for w in set(_terms(head))) for head, _ in heads]
        order = np.argsort(-np.array(central), kind="stable")[:2]
        return heads[order[pick(len(order), self._seed, *names)]]

    def _conclusion(self, sentences: list[str], names: tuple[str, ...]) -> tuple[str, str]:
        """What the passage ends up claiming, without "our results suggest that"; nothing is drawn.

        That is the sentence under the heading "Conclusion", else the last one with such a lead,
        else the last one that announces nothing.
        """
        del names
        fitting = [(claim, s) for s in sentences if (claim := _claim(s))]
        for is_meant in (_CONCLUSION_HEADING.match, _CONCLUSION_LEAD.match):
            meant = [pair for pair in fitting if is_meant(pair[1])]
            if meant:
                return meant[-1]
        return fitting[-1] if fitting else ("", "")

    def _information(self, sentence: str) -> float:
        terms = _terms(sentence)
        return sum(self._rarity(w) for w in terms) / max(len(terms), 1)


def split_sentences(text: str) -> list[str]:
    """The sentences of a passage's prose, without code, tables and lists of parameters."""
    sentences = []
    for block in _prose_blocks(text.splitlines()):
        for pattern, replacement in _MARKUP:
            block = pattern.sub(replacement, block)
        merged = ""
        for part in _SENTENCE_END.split(" ".join(block.split())):
            merged = f"{merged} {part}".strip()
            if not _ABBREVIATION.search(merged):
                sentences.append(merged)
                merged = ""
        sentences += [merged] if merged else []
    return [sentence for sentence in sentences if _is_prose(sentence)]


def remove_sentence(text: str, sentence: str) -> str:
    """`text` without `sentence`, which may be broken over lines and hold markup in `text`.

    Returns `text` unchanged where the sentence is not in it.
    """
    words = _WORD.findall(sentence)
    if not words:
        return text
    pattern = r"[\W_]*".join(re.escape(word) for word in words)
    return re.sub(pattern, " ", text, count=1)


def _prose_blocks(lines: Sequence[str]) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in lines:
        line = line.strip()
        if _BULLET.match(line):
            blocks.append([_BULLET.sub("", line)])
        elif line and not _NO_PROSE.match(line):
            blocks[-1].append(line)
        elif line and blocks[-1] and not line.startswith(">>>") and line[-1:] in ".,":
            blocks[-1].append(line)  # a wrapped line that merely looks like a heading
        else:
            blocks.append([])
    return [" ".join(block) for block in blocks if block]


def _is_prose(sentence: str) -> bool:
    tokens = sentence.split()
    plain = sum(bool(re.fullmatch(r"[\"'(]*[A-Za-z][A-Za-z'-]*[\"'),.;:!?]*", x)) for x in tokens)
    return len(tokens) >= 3 and plain >= MIN_PROSE * len(tokens)


@functools.cache
def _empty_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN  # late, as in data_prep/retrieval/analyzer.py

    return frozenset(STOPWORDS_EN) | frozenset(_MORE_EMPTY_WORDS.split())


def _terms(text: str) -> list[str]:
    empty = _empty_words()
    words = (word.strip("'-_") for word in _WORD.findall(text.lower()))
    return [w for w in words if len(w) > 1 and w not in empty and not w.isdigit()]


def _head_phrase(sentence: str) -> str:
    """The first clause that is long enough for a title, cut to length, no empty words around it."""
    low, high = TITLE_WORDS
    empty = _empty_words()
    clauses = [clause for clause in _CLAUSE_END.split(sentence) if clause]
    for clause in clauses:
        words = _WORD.findall(clause)
        while words and words[0].lower() in empty:
            del words[0]
        del words[high:]
        while words and words[-1].lower() in empty:
            del words[-1]
        if len(words) >= low:
            return " ".join(words)
    return ""


def _claim(sentence: str) -> str:
    """What a sentence claims, without what leads up to it; "" where its length does not fit."""
    claim = _CONCLUSION_HEADING.sub("", sentence)
    claim = _CONCLUSION_LEAD.sub("", claim).rstrip(" .:;,")
    low, high = SENTENCE_WORDS
    if not low <= len(_WORD.findall(claim)) <= high or _NO_CONCLUSION.search(sentence):
        return ""
    return claim


EXTRACTIVE_VERSION = 2
"""This number is raised when the same passage gives other extractive queries than before."""


def extractive_queries(
    workspace: Workspace, passages: Passages, rows: np.ndarray, engine: Engine
) -> Iterator[Query]:
    """One query of each extractive type for each passage; its text may be empty.

    Raises:
      UserError: a query type is unknown, or the config names none.
    """
    config, types = workspace.config, types_of(workspace.settings)
    unknown = [name for name in types if name not in EXTRACTIVE_CHOICES]
    if unknown or not types:
        known = ", ".join(EXTRACTIVE_CHOICES)
        raise UserError(f"config.prep.query_types={types}: the extractive query types are {known}")
    folder = ShardFolder(workspace.prep / "answers", ".jsonl")
    index = corpus_bm25(workspace, passages)
    make_worker = functools.partial(_Extracting, index, config.seed)
    for query_type in types:
        terms = Analyzer(workspace.settings.language).key
        key = f"extractive {EXTRACTIVE_VERSION} {config.seed} {passages.key} {terms}"
        shards = _shards(workspace, passages, rows, query_type, key, workspace.settings.shard_size)
        paths = folder.make(make_worker, shards, engine, description=query_type, unit="passages")
        for path in paths:
            for answer in read_json_lines(path):
                yield Query(
                    f"{answer['doc_id']}:{query_type}",
                    query_type,
                    answer["text"],
                    answer["row"],
                    answer["excerpt"],
                    {},
                    answer["doc_id"],
                )


class _Extracting:
    def __init__(self, index: Bm25, seed: int):
        self._extractor = Extractor(index.rarity, seed)

    def __call__(self, payload: Payload) -> Made:
        lines = []
        for row, doc_id, passage in passages_of(payload):
            text, excerpt = self._extractor.make(payload["query_type"], doc_id, passage)
            lines.append({"row": row, "doc_id": doc_id, "text": text, "excerpt": excerpt})
        return Made(json_lines(lines))


def _shards(
    workspace: Workspace, passages: Passages, rows: np.ndarray, query_type: str, key: str, size: int
) -> list[Shard]:
    """The shards of the passages that queries of one type are cut out of."""
    passage_set = PassageSet(workspace.corpus_records)

    def payload(shard_rows: np.ndarray) -> Payload:
        return passages_payload(passage_set, passages, query_type, shard_rows.tolist())

    return [
        Shard(
            f"{query_type}-{start // size:05d}",
            shard_key(key, passages.key, query_type, rows[start : start + size].tobytes()),
            len(rows[start : start + size]),
            functools.partial(payload, rows[start : start + size]),
        )
        for start in range(0, len(rows), size)
    ]
