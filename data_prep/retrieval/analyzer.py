"""What BM25 makes of texts: words in lower case, without stop-words, stemmed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

ANALYZER_VERSION = 2
STOP_WORDS_OF = (
    *("danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese"),
    *("russian", "spanish", "swedish", "turkish"),
)
"""Languages that bm25s has stop-words of, by the names of Snowball's stemmers."""


@dataclass(frozen=True)
class Analyzer:
    """Turns texts into terms, as an analyzer of Lucene does.

    Attributes:
      language: whose stop-words are left out and whose words are stemmed, by the name of Snowball's
        stemmer; "": words stay as they are.
    """

    language: str = "english"

    @property
    def key(self) -> str:
        """A plain name that changes whenever terms do."""
        return f"{self.language or 'words'}-{ANALYZER_VERSION}"

    def terms(self, texts: Sequence[str]) -> list[list[str]]:
        """The terms of each text: words of two letters or more, in their order."""
        # Imported here because it brings numba, where that is installed, and vLLM does not start on
        # a CPU beside numba.
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        return bm25s.tokenize(
            list(texts),
            stopwords=self.language if self.language in STOP_WORDS_OF else None,
            stemmer=self._stem if self.language else None,
            return_ids=False,
            show_progress=False,
        )

    def term(self, word: str) -> str:
        """The term of one word, which is no stop-word."""
        return self._stem([word.lower()])[0] if self.language else word.lower()

    def _stem(self, words: Sequence[str]) -> list[str]:
        import Stemmer

        return Stemmer.Stemmer(self.language).stemWords(list(words))  # no thread may share one
