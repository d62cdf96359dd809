"""Keeping test queries out of training."""

import functools
from collections.abc import Iterable

import numpy as np

from ldx.common.texts import only_words

LEAK_WORDS = 4  # a shorter test query may be part of a training query by chance
NEARLY_EQUAL = 0.8
"""The share of three-letter pieces from which on two queries are nearly equal.

Pieces are counted once, of both queries together, and are taken word by word, so the order of words
does not matter. From this share on, two queries differ in a letter, an ending, or a word among six
("increases", "decreases")."""


class TestQueries:
    """The queries of a test split, indexed to find texts that give one of them away."""

    __test__ = False  # pytest would take this for a class of tests

    def __init__(self, texts: Iterable[str]):
        """Index the texts of the queries by their first LEAK_WORDS words."""
        self._texts = {only_words(text) for text in texts} - {""}
        self._by_start: dict[tuple[str, ...], list[str]] = {}
        for text in self._texts:
            words = text.split()
            if len(words) >= LEAK_WORDS:
                self._by_start.setdefault(tuple(words[:LEAK_WORDS]), []).append(f" {text} ")

    def leaks_into(self, text: str) -> bool:
        """Whether `text` equals a test query, or holds one of at least LEAK_WORDS words."""
        text = only_words(text)
        words = text.split()
        starts = zip(*(words[i:] for i in range(LEAK_WORDS)), strict=False)
        shared_starts = self._by_start.keys() & set(starts)
        return text in self._texts or any(
            test_query in f" {text} "
            for start in shared_starts
            for test_query in self._by_start[start]
        )

    def is_nearly(self, text: str) -> bool:
        """Whether `text` is equal or nearly equal to a test query (see `NEARLY_EQUAL`)."""
        return self._pieces.has_near(text)

    @functools.cached_property
    def _pieces(self) -> "_Pieces":
        return _Pieces(sorted(self._texts))


class _Pieces:
    """Texts by their pieces of three letters, blanks before and after a word included."""

    def __init__(self, texts: Iterable[str]):
        numbers: dict[str, list[int]] = {}
        sizes = []
        for number, text in enumerate(texts):
            pieces = _pieces_of(text)
            sizes.append(len(pieces))
            for piece in pieces:
                numbers.setdefault(piece, []).append(number)
        self._numbers = {piece: np.array(each) for piece, each in numbers.items()}
        self._sizes = np.array(sizes, np.int64)

    def has_near(self, text: str) -> bool:
        """Whether one of the texts shares the share NEARLY_EQUAL of its pieces with `text`."""
        pieces = _pieces_of(text)
        numbers = [self._numbers[piece] for piece in pieces if piece in self._numbers]
        if len(numbers) < NEARLY_EQUAL * len(pieces) or not numbers:
            return False
        shared = np.bincount(np.concatenate(numbers), minlength=len(self._sizes))
        return bool((shared >= NEARLY_EQUAL * (len(pieces) + self._sizes - shared)).any())


def _pieces_of(text: str) -> set[str]:
    words = (f" {word} " for word in only_words(text).split())
    return {word[start : start + 3] for word in words for start in range(len(word) - 2)}
