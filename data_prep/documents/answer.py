"""Reading the passages out of a language model's answer, one for each level of relevance."""

import enum
import re

from data_prep.documents.prompt import DocumentPrompt, DocumentRules
from data_prep.llm import answers
from data_prep.llm.answers import is_refusal, visible
from data_prep.llm.words import num_words


class DocumentFault(enum.StrEnum):
    """Why an answer holds no passages."""

    EMPTY = answers.EMPTY
    REFUSED = answers.REFUSED
    CUT_OFF = "cut off"
    NO_HEADINGS = "no headings"
    WRONG_LEVELS = "not each level once"
    TOO_SHORT = "a passage is too short"
    TOO_LONG = "a passage is too long"
    SPEAKS_OF_TASK = "a passage speaks of its query or level"
    EQUAL = "two passages are equal"
    COPIED_EXAMPLE = "copied from an example"


# "### LEVEL 3", "**Level 2 (highly relevant):**", "Level 1: text", but not "Level 3 chargers are".
_HEADING = re.compile(
    r"^[\s#*_=>\[(-]*level\s*[:#-]?\s*(\d+)\b[\s\])*_]*"
    r"(?:[(,–—-][^:\n]{0,60}?[\s)*_]*)?(?:$|:[\s*_]*(?P<rest>.*)$|[=#*_\]\s]+$)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^\W*(?:passage|text|document|content)\s*:\s*", re.IGNORECASE)
# A line without words, or one that only counts words: "---", "(Word count: 85)".
_RULER = re.compile(r"^\W*(?:word count\W*\d+(?: words)?|\(\d+ words\))?\W*$", re.IGNORECASE)
# What a model says after its answer: it speaks of "these passages" or takes leave. "Note that part
# 3 of the form must reach the office by May", however, belongs to a leaflet.
_REMARK = re.compile(
    r"^\W*(?:"
    r"(?:(?:please )?note|disclaimer|i have|i['’]ve)\b"
    r".*\b(?:(?:these|four) passages|passages above|as (?:asked|requested|specified))\b"
    r"|(?:these|the|all) (?:four passages|passages above)\b"
    r"|these passages (?:are|were) (?:all )?(?:designed|written|created|fictional|invented)\b"
    r"|(?:please )?let me know\b|feel free to\b"
    r"|(?:i )?hope (?:this|these)(?: passages)? (?:help|meet)"
    r"|would you like me to\b)",
    re.IGNORECASE,
)
_TASK = re.compile(
    r"\b(?:this|the) (?:passage|text) (?:is|was|does|has|would) (?:not |completely |only |un)?"
    r"(?:relevan|irrelevan|relat|unrelat|answer|address)\w*"
    r"|\bthis (?:page|article|document) (?:does not )?(?:answers?|address(?:es)?) the query\b"
    r"|\brelevant to the (?:given |search )?query\b|\b(?:perfectly|highly) relevant passage\b"
    r"|\blevel [0-9] (?:passage|relevance)\b|\brelevan(?:t|ce) (?:level|score)\W{1,3}[0-9]\b",
    re.IGNORECASE,
)


def read_answer(
    answer: str, prompt: DocumentPrompt, query: str, finish_reason: str
) -> tuple[dict[int, str], str]:
    """The passages in an answer: those of all levels, or none.

    Passages of two answers cannot be combined: the model did not set them off from each other.

    Args:
      answer: all that the model wrote.
      prompt: the prompt that the model was asked with.
      query: the query that the model was asked about.
      finish_reason: why the model stopped; `length` and `abort` mean that the end is missing,
        `content_filter` that a server held the answer back.

    Returns:
      (text by level, "") or ({}, a `DocumentFault`). Each text is one line.
    """
    if finish_reason == "content_filter":
        return {}, DocumentFault.REFUSED
    if finish_reason in ("length", "abort"):
        return {}, DocumentFault.CUT_OFF
    text = visible(answer).strip()
    if not text:
        return {}, DocumentFault.EMPTY
    sections = _sections(text)
    if not sections:
        is_refused = is_refusal(text, prompt.answer.refusals)
        return {}, DocumentFault.REFUSED if is_refused else DocumentFault.NO_HEADINGS
    if sorted((level for level, _ in sections), reverse=True) != [x.level for x in prompt.levels]:
        return {}, DocumentFault.WRONG_LEVELS
    passages = {level: passage for level, passage in sorted(sections, reverse=True)}
    for passage in passages.values():
        if reason := _reason(passage, prompt.answer, query):
            return {}, reason
    if len({passage.casefold() for passage in passages.values()}) < len(passages):
        return {}, DocumentFault.EQUAL
    examples = {" ".join(p.split()) for example in prompt.examples for p in example.passages}
    if examples & set(passages.values()):
        return {}, DocumentFault.COPIED_EXAMPLE
    return passages, ""


def _sections(text: str) -> list[tuple[int, str]]:
    """The level and the passage of each heading; text before the first heading is dropped."""
    sections: list[tuple[int, list[str]]] = []
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            sections.append((int(heading[1]), [heading["rest"] or ""]))
        elif sections:
            sections[-1][1].append(line)
    # A remark about the answer can only stand after the last passage.
    last = len(sections) - 1
    return [(n, _passage(lines, has_remarks=i == last)) for i, (n, lines) in enumerate(sections)]


def _passage(lines: list[str], *, has_remarks: bool) -> str:
    """The lines of a passage joined into one, without its label and the remarks after it."""
    while lines and (_RULER.match(lines[-1]) or (has_remarks and _REMARK.match(lines[-1]))):
        lines = lines[:-1]
    text = " ".join(" ".join(lines).replace("**", "").replace("```", "").split())
    text = _LABEL.sub("", text)
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”", "[]") and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _reason(passage: str, rules: DocumentRules, query: str) -> str:
    """Why a passage cannot be used; "" if it can."""
    if is_refusal(passage, rules.refusals):
        return DocumentFault.REFUSED
    lower, lower_query = passage.casefold(), query.casefold()
    references = (words.casefold() for words in rules.references)
    if _TASK.search(passage) or any(
        words in lower and words not in lower_query for words in references
    ):
        return DocumentFault.SPEAKS_OF_TASK
    number = num_words(passage)
    if number < rules.min_words:
        return DocumentFault.TOO_SHORT
    return DocumentFault.TOO_LONG if number > rules.max_words else ""
