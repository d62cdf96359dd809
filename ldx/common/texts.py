"""Texts as they are compared."""

import re


def only_words(text: str) -> str:
    """The words of a text in lower case, one space between them: what queries are compared by."""
    return " ".join(re.findall(r"\w+", text.lower()))
