"""Words in any script: counting them, and finding runs of them that two texts share."""

import re

from ldx.common.texts import FOUR_A_WORD, TWO_A_WORD

_PIECE = re.compile(f"[{TWO_A_WORD}{FOUR_A_WORD}]|[^\\s{TWO_A_WORD}{FOUR_A_WORD}]+")


def num_words(text: str) -> float:
    """The number of words in a text of any script.

    Whatever stands between spaces is a word if it has a letter or a digit. In scripts without
    spaces, two characters of Chinese or Japanese, or four letters of Thai, Lao, Burmese or Khmer,
    count as one word.
    """
    return sum(_weight(piece) for piece in split_words(text))


def has_words(text: str) -> bool:
    """Whether a text holds a letter or a digit."""
    return any(character.isalnum() for character in text)


def split_words(text: str) -> list[str]:
    """The words of a text, or its characters where a script has no spaces, without punctuation."""
    pieces = (_bare(piece) for piece in _PIECE.findall(text.casefold()))
    return [piece for piece in pieces if piece]


def _bare(piece: str) -> str:
    start, end = 0, len(piece)
    while start < end and not piece[start].isalnum():
        start += 1
    while end > start and not piece[end - 1].isalnum():
        end -= 1
    return piece[start:end]


def _weight(piece: str) -> float:
    if re.match(f"[{TWO_A_WORD}]", piece):
        return 0.5
    return 0.25 if re.match(f"[{FOUR_A_WORD}]", piece) else 1.0


def copies(query: str, passage: str, max_copied_words: int) -> bool:
    """Whether query and passage share a run of more than `max_copied_words` words.

    Letter case and punctuation do not count.
    """
    pieces = split_words(query)
    within = f" {' '.join(split_words(passage))} "
    for start in range(len(pieces)):
        weight = 0.0
        for end, piece in enumerate(pieces[start:], start + 1):
            weight += _weight(piece)
            if weight > max_copied_words:
                if f" {' '.join(pieces[start:end])} " in within:
                    return True
                break
    return False
