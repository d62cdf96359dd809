"""Test queries, to keep them out of training."""

import re
from collections.abc import Iterable

LEAK_WORDS = 4  # a test query of fewer words may stand inside a training query by chance


def normalized(text: str) -> str:
    """Lower case, words only."""
    return " ".join(re.findall(r"\w+", text.lower()))


class TestQueries:
    """The queries of a test split."""

    __test__ = False  # not a class of tests

    def __init__(self, texts: Iterable[str]):
        """Index by the first LEAK_WORDS words."""
        self._texts = {normalized(text) for text in texts} - {""}
        self._by_start: dict[tuple[str, ...], list[str]] = {}
        for text in self._texts:
            words = text.split()
            if len(words) >= LEAK_WORDS:
                self._by_start.setdefault(tuple(words[:LEAK_WORDS]), []).append(f" {text} ")

    def leaks_into(self, text: str) -> bool:
        """Whether `text` equals a test query, or holds one of at least LEAK_WORDS words."""
        text = normalized(text)
        words = text.split()
        starts = zip(*(words[i:] for i in range(LEAK_WORDS)), strict=False)
        found = self._by_start.keys() & set(starts)
        return text in self._texts or any(
            test in f" {text} " for start in found for test in self._by_start[start]
        )
