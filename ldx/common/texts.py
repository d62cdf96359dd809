"""The form in which texts are compared."""

import re


def only_words(text: str) -> str:
    """The words of a text in lower case, one space between them; queries are compared by these."""
    return " ".join(re.findall(r"\w+", text.lower()))
