"""Turning the answer of a language model into a query, or into the reason why it holds none.

Models wrap a query in quotes, markdown, labels and small talk. The wrapping is taken off until
nothing more comes off, so that cleaning a clean query changes nothing; then the query is judged.
"""

import enum
import functools
import json
import re

from data_prep.llm import answers
from data_prep.llm.answers import is_refusal, unboxed, visible
from data_prep.llm.words import copies, has_words, num_words, split_words
from data_prep.queries.prompt import AnswerRules, Prompt


class QueryFault(enum.StrEnum):
    """Why an answer holds no query."""

    EMPTY = answers.EMPTY
    REFUSED = answers.REFUSED
    NO_QUERY = "no query"  # the answer is only talk around a query, or it refers to the passage
    CUT_OFF = "cut off"
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    COPIED = "copied from passage"
    COPIED_EXAMPLE = "copied from an example"


def clean(answer: str, prompt: Prompt, passage: str, finish_reason: str) -> tuple[str, str]:
    """The query in an answer.

    Args:
      answer: all that the model wrote.
      prompt: the prompt that the model was asked with; its `answer` holds the rules for queries.
      passage: the passage that the model was asked about.
      finish_reason: why the model stopped. `length` (at max_tokens) and `abort` mean that the end
        is missing, `content_filter` that a server held the answer back.

    Returns:
      (query, "") or ("", a `QueryFault`). The query is one line of NFC text; cleaning it again as
      if it were an answer does not change it.
    """
    if finish_reason == "content_filter":
        return "", QueryFault.REFUSED
    text, was_cut = visible(unboxed(answer)), False
    if finish_reason in ("length", "abort"):
        text, was_cut = _whole_lines(text)
    query = _unwrapped(text, prompt)
    if query:
        reason = _reason(query, prompt, passage)
        return ("", reason) if reason else (query, "")
    if was_cut:
        return "", QueryFault.CUT_OFF
    return "", QueryFault.NO_QUERY if has_words(text) else QueryFault.EMPTY


def _reason(query: str, prompt: Prompt, passage: str) -> str:
    """Why `query` cannot be used; "" if it can."""
    rules = prompt.answer
    lower = query.casefold()
    if is_refusal(query, rules.refusals):
        return QueryFault.REFUSED
    if _REFERENCE.search(query) or any(x.casefold() in lower for x in rules.references):
        return QueryFault.NO_QUERY
    if _PLACEHOLDER.fullmatch(query):
        return QueryFault.NO_QUERY
    if num_words(query) < rules.min_words:
        return QueryFault.TOO_SHORT
    if num_words(query) > rules.max_words or len(query) > rules.max_chars:
        return QueryFault.TOO_LONG
    if rules.max_copied_words and copies(query, passage, rules.max_copied_words):
        return QueryFault.COPIED
    words = split_words(query)
    if any(words == split_words(e.query) and passage != e.passage for e in prompt.examples):
        return QueryFault.COPIED_EXAMPLE
    return ""


_KIND = (
    r"(?:quer(?:y|ies)|questions?|claims?|titles?|headlines?|key ?(?:words?|phrases?)|statements?"
    r"|search(?:es)?)"
)
_SOURCE = r"(?:passage|text|excerpt|paragraph|document|article|content|context|information|snippet)"
_REFERENCE = re.compile(
    # "the passage of time" and "the passage between the islands" do not refer to the passage.
    r"\b(?:the|this|that) (?:passage|excerpt)\b"
    r"(?! (?:of|between|from|through|to|into|across|around|along|under|beneath|over)\b)"
    rf"|\b(?:the|this) (?:given|provided|above|following|preceding|quoted) {_SOURCE}\b"
    rf"|\b(?:the|this) {_SOURCE} (?:above|below|provided|given)\b"
    r"|\b(?:according to|based on|(?:mentioned|described|discussed|stated|presented|given|outlined"
    r"|listed|provided|referred to|reported|shown) (?:in|by)) (?:the|this) (?:\w+ )?"
    r"(?:text|paragraph|document|article|snippet|author|study)\b(?! of\b)"
    r"|\b(?:the|this) (?:text|document|article|paragraph|author) (?:says?|states?|mentions?"
    r"|describes?|discuss(?:es)?|explains?|suggests?|claims?|refers?|talks?|focuses)\b"
    rf"|\bno {_SOURCE} (?:was|is|has been|were)? ?(?:provided|given|supplied|here)\b"
    rf"|\b(?:provide|share|paste) (?:me )?(?:with )?(?:the|your|some) {_SOURCE}\b",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    rf"\W*(?:n/?a|none|null|undefined|not applicable|(?:your |the |insert )*{_KIND}(?: here)?)\W*",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\s*(?:```|~~~)\s*\w*\s*")
_END = (".", "?", "!", "。", "？", "！", "؟", "।", "…")
_CLOSERS = "\"'”’»›」』)]*_`"
_BULLET = r"(?:[-*•–—·▪◦●‣➤→>]|#{1,6}|\(\d{1,2}\)|\d{1,2}\)"
_LIST_MARK = re.compile(rf"(?:{_BULLET}|\d{{1,2}}\.)\s+)+")
_LIST_MARK_NO_ORDINAL = re.compile(rf"(?:{_BULLET})\s+)+")
# Languages that write "2." for "second": "2. Weltkrieg" is not a list of one item.
_ORDINAL_DOT = ("cs", "da", "de", "et", "fi", "hr", "hu", "nb", "nn", "no", "pl", "sk", "sl", "tr")


def _whole_lines(text: str) -> tuple[str, bool]:
    """The lines that are complete although the tokens ran out, and whether a line was cut."""
    lines = [line.strip() for line in text.splitlines() if has_words(line)]
    if lines and lines[-1].rstrip(_CLOSERS).endswith(_END):
        return "\n".join(lines), False
    return "\n".join(lines[:-1]), True


def _unwrapped(text: str, prompt: Prompt) -> str:
    """The query of an answer in one line; "" where there is none."""
    while True:  # every round takes something off, or is the last one
        stripped = _first_line(_from_json(visible(text), prompt), prompt)
        if stripped == text:
            return text
        text = stripped


def _first_line(text: str, prompt: Prompt) -> str:
    """The first line that holds text, or all items of a list where the query is a list."""
    lines = [" ".join(line.split()) for line in text.splitlines() if not _FENCE.fullmatch(line)]
    marks = [_LIST_MARK.match(line) for line in lines]
    if prompt.language.split("-")[0] in _ORDINAL_DOT and len([m for m in marks if m]) < 2:
        marks = [_LIST_MARK_NO_ORDINAL.match(line) for line in lines]
    items: list[str] = []
    for line, mark in zip(lines, marks, strict=True):
        query = _line(line[mark.end() :] if mark else line, prompt.answer)
        if query and not (prompt.answer.is_list and mark):
            return query if not items else ", ".join(items)
        if query:
            items.append(query.rstrip(" ."))
    return ", ".join(items)


def _from_json(text: str, prompt: Prompt) -> str:
    """The text inside the JSON where a model answers in JSON; else `text`."""
    inner = "\n".join(line for line in text.splitlines() if not _FENCE.fullmatch(line)).strip()
    if not inner.startswith(("{", "[", '"')):
        return text
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict):
        labels = {label.casefold() for label in prompt.answer.labels}
        labelled = [v for k, v in value.items() if k.casefold().replace("_", " ") in labels]
        value = next(iter([*labelled, *value.values()]), "")
    if isinstance(value, list):
        texts = [x for x in value if isinstance(x, str)] or [""]
        value = ", ".join(texts) if prompt.answer.is_list else texts[0]
    return value if isinstance(value, str) else text


_COLON = r"(?::(?=[\s\"“'‘«*]|$)|：)\s*"
_TALK = re.compile(
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|got it|understood|gladly)"
    r"(?:[!.:]+(?=\s|$)\s*|, ?(?=here|i\b|let\b|below|this|the following|based on))"
    r"|i(?:['’]d| would) be (?:happy|glad)\b[^.!:]{0,80}[.!:]\s*"
    r"|(?:i(?:['’]ll| will| can|['’]ve| have)|let me) (?:\w+ )?(?:write|generate|create|provide"
    r"|think|suggest|formulate|written|generated|created)\b[^.!:?]{0,80}[.!:]\s*"
    r"|here (?:you go|it is|we go)[.!:]*\s*"
    # "Based on the passage, here is a possible question: …"
    r"|(?:(?:based on|given|from|using|after reading)\b[^:,]{0,60}, ?)?(?:here(?:['’]s| is| are)"
    r"|below (?:is|are)|the following (?:is|are)|hier (?:ist|sind)|voici|aquí (?:tienes|está|hay)"
    rf"|aqui está|ecco|以下是|这是)[^:：?？]{{0,160}}{_COLON}"
    # "A question that somebody might ask is: …"
    rf"|(?=[^:：]{{0,140}}\b(?:{_KIND}|users?|person|(?:some|any)?one|somebody|people)\b)"
    r"[^:：.?!]{0,120}\b(?:(?:is|are|be|as|asks?|types?|enter|search(?: for)?|look up) ?"
    rf"{_COLON}|(?:might|could|would|may) (?:ask|type|enter|search(?: for)?|google),? (?=[\"“]))"
    rf"|here(?:['’]s| is| are) (?:an?|one|my|your|some|\d)\b[^.?!:]{{0,80}}\b{_KIND}\b"
    r"[^?!:.]{0,80}[.!]?$"
    r"|(?:passage|document)\s?:.*",
    re.IGNORECASE,
)
_NOTE = re.compile(
    rf"\s*[(\[](?:(?:note|answer|source|explanation|word count)\b|\d+ words?|this {_KIND})"
    r"[^)\]]*[)\]]?$"
    r"|(?<=[.?!。？！])\s*(?:answer|a|explanation|note|passage|rationale)\s?:\s.*$",
    re.IGNORECASE,
)
_MARKDOWN = (
    (re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]+)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)(_{1,2})(?=[^\s_])([^_]*\s[^_]*)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"`+"), ""),
    (re.compile(r"^<(\w{1,20})>(.*)</\1>$"), r"\2"),
)
_QUOTES = (
    '""', "''", "“”", "‘’", "„“", "„”", "‚‘", "«»", "»«", "‹›", "›‹", "””", "’’",
    "＂＂", "「」", "『』", "《》", "[]",
)  # fmt: skip
_DOUBLE = '"“”„'
_LABELS = (
    *("Answer", "Response", "Output", "Assistant", "Question", "Search query", "Final answer"),
    *("Frage", "Suchanfrage", "Anfrage", "Antwort", "Titel", "Behauptung"),
    *("Requête", "Réponse", "Titre", "Pregunta", "Consulta", "Respuesta", "Título"),
    *("Pergunta", "Resposta", "Domanda", "Risposta", "Titolo", "Vraag", "Zoekopdracht", "Antwoord"),
    *("Pytanie", "Odpowiedź", "Вопрос", "Запрос", "Ответ", "Soru", "Sorgu", "Câu hỏi"),
    *("سؤال", "السؤال", "प्रश्न", "问题", "问句", "查询", "搜索查询", "回答", "答案", "標題", "标题"),
    *("質問", "検索クエリ", "クエリ", "질문", "검색어", "คำถาม"),
)
"""Words that models put before a query or an answer, in the languages that they write."""
_QUALIFIERS = (
    r"(?:(?:web|search|possible|potential|example|sample|generated|suggested|final|user|relevant"
    r"|specific|natural|short|concise|fact-check\w*|new|my|the) )"
)


def _line(line: str, rules: AnswerRules) -> str:
    """The query in a line, without the words and marks around it; "" where there is none."""
    label = _label_pattern(rules.labels)
    before = None
    while line != before:
        before = line
        line = _unquoted(line)
        for pattern, inside in _MARKDOWN:
            line = pattern.sub(inside, line)
        line = label.sub("", line)
        line = line[match.end() :] if (match := _TALK.match(line)) else line
        line = _NOTE.sub("", line).strip(" ,;")
    if rules.is_list:
        line = ", ".join(_unquoted(item) for item in line.split(", "))
    return "" if line.endswith((":", "：")) or not has_words(line) else line


@functools.lru_cache
def _label_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for a label at the start of a line.

    It matches `Question:`, `Search query 2 -`, `[Query]:`, and a line that is only the label.
    """
    known = [*labels, *_LABELS]
    names = "|".join(re.escape(label) for label in sorted(known, key=len, reverse=True))
    number = r"(?: ?\(?#?\d{1,2}\)?)?"
    return re.compile(
        rf"^[\[(*_<#\s]*{_QUALIFIERS}{{0,3}}(?:{names}){number}[\])*_>]*\s*"
        r"(?:[:：]|(?<=\s)[-–—]\s|$)[*_]*\s*",
        re.IGNORECASE,
    )


def _unquoted(text: str) -> str:
    """`text` without the quotation marks around it, and without a mark that has no partner."""
    for pair in _QUOTES:
        opener, closer = pair[0], pair[1]
        end = text.rfind(closer)
        inner, tail = text[1:end].strip(), text[end + 1 :]
        is_whole = text.startswith(opener) and len(tail) < 3 and not tail.strip(".,;:!?。？！")
        if is_whole and inner and _is_around(inner, opener, closer):
            return inner + ("" if inner.endswith(_END) else tail)
    is_alone = sum(text.count(mark) for mark in _DOUBLE) == 1
    # A mark after a digit at the end may mean inches.
    if is_alone and (text[0] in _DOUBLE or (text[-1] in _DOUBLE and not text[-2:-1].isdigit())):
        return text.strip(_DOUBLE).strip()
    return text


def _is_around(inner: str, opener: str, closer: str) -> bool:
    """Whether the marks around `inner` belong together, unlike those of `"this" or "that"`."""
    depth = 0
    for place, mark in enumerate(inner):
        before, after = inner[place - 1 : place], inner[place + 1 : place + 2]
        if mark not in (opener, closer) or (mark in "'’" and before.isalnum() and after.isalnum()):
            continue
        opens = mark == opener and (mark != closer or (depth == 0 and not before.strip(" ([")))
        depth += 1 if opens else -1
        if depth < 0:
            return False
    return True
