"""Keeping test queries out of training."""

from collections.abc import Iterable

from ldx.common.texts import only_words

LEAK_WORDS = 4  # a shorter test query may be part of a training query by chance


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
