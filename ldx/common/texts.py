"""The form in which texts are compared, and the scripts that do not set words apart."""

import re

TWO_A_WORD = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of Chinese and Japanese, two of which are about a word, for the [] of a regex."""
FOUR_A_WORD = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Those of Thai, Lao, Burmese and Khmer, four of which are."""


def only_words(text: str) -> str:
    """The words of a text in lower case, one space between them; queries are compared by these."""
    return " ".join(re.findall(r"\w+", text.lower()))
