"""What BM25 makes of texts: words in lower case, without stop-words, stemmed.

Where a script does not set words apart (Chinese, Japanese, Thai, Lao, Burmese, Khmer), every two
letters beside each other stand for a word, as in Lucene's CJKAnalyzer.
"""

import importlib.metadata
import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ldx.common.texts import FOUR_A_WORD, TWO_A_WORD

STOP_WORDS_OF = (
    *("danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese"),
    *("russian", "spanish", "swedish", "turkish"),
)
"""Languages that bm25s has stop-words of, by the names of Snowball's stemmers."""
# Python's \w has no vowel signs of Hindi or Tamil and no Hebrew points, which are parts of words.
_BLOCKS = (*range(0x300, 0x1100), *range(0x1700, 0x2100), *range(0xA800, 0xAC00))
_MARKS = "".join(chr(code) for code in _BLOCKS if unicodedata.category(chr(code))[0] == "M")
_UNSPACED = rf"{TWO_A_WORD}{FOUR_A_WORD}"
# Two letters or more; or a letter that stands for a word by itself, where letters can.
WORD = rf"[\w{_MARKS}]{{2,}}|(?![^\w{_MARKS}])[{_UNSPACED}]"
_RUN = re.compile(rf"(?:(?![^\w{_MARKS}])[{_UNSPACED}])+")
PAIRS_VERSION = "pairs1"
"""This is changed when texts of such scripts give other terms than before."""
_TURKISH = str.maketrans({"I": "ı", "İ": "i"})


@dataclass(frozen=True)
class Analyzer:
    """Turns texts into terms, as an analyzer of Lucene does.

    Threads may share it.

    Attributes:
      language: whose words are stemmed, by the name of Snowball's stemmer, and whose stop-words are
        left out if it is one of STOP_WORDS_OF; "": neither.
    """

    language: str

    @property
    def key(self) -> str:
        """A plain name that changes whenever terms do."""
        versions = (importlib.metadata.version(name) for name in ("bm25s", "PyStemmer"))
        return "-".join((self.language or "words", PAIRS_VERSION, *versions))

    def terms(self, texts: Sequence[str]) -> list[list[str]]:
        """The terms of each text, in their order: words of two letters or more, or pairs."""
        # Imported here because it brings numba, where that is installed, and vLLM does not start on
        # a CPU beside numba.
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        return bm25s.tokenize(
            [self._prepare(text) for text in texts],
            token_pattern=WORD,
            stopwords=self.language if self.language in STOP_WORDS_OF else None,
            stemmer=self._stem if self.language else None,
            return_ids=False,
            show_progress=False,
        )

    def _prepare(self, text: str) -> str:
        text = self._lower_case(unicodedata.normalize("NFC", text))
        return text if text.isascii() else _RUN.sub(_pairs, text)

    def _lower_case(self, text: str) -> str:
        return (text.translate(_TURKISH) if self.language == "turkish" else text).lower()

    def _stem(self, words: Sequence[str]) -> list[str]:
        import Stemmer

        return Stemmer.Stemmer(self.language).stemWords(list(words))  # threads cannot share one


def _pairs(run: re.Match[str]) -> str:
    """Every two letters beside each other, set apart; a letter that stands alone as it is."""
    letters = run[0]
    pairs = [letters[i : i + 2] for i in range(max(1, len(letters) - 1))]
    return f" {' '.join(pairs)} "
