"""What all kinds of answers share: the part that a model meant to be read, and refusals."""

import re
import unicodedata
from collections.abc import Sequence

EMPTY = "empty"
REFUSED = "refused"


def is_refusal(text: str, refusals: Sequence[str] = ()) -> bool:
    """Whether a text begins as refusals do, in English or with one of `refusals`."""
    lower = text.casefold()
    return bool(_REFUSAL.match(text)) or lower.startswith(tuple(x.casefold() for x in refusals))


_REFUSAL = re.compile(
    r"(?:(?:i(?:['’]m| am) (?:very |so |really |truly )?sorry|sorry[,.!]|my apologies"
    r"|i apologi[sz]e)[,.!;]? (?:but|however|as an?|there (?:is|are)|i (?:can|could|am|do|will"
    r"|won|did|have)|i['’]m)"
    r"|unfortunately, (?:i|there|the|this|no|it)\b"
    r"|as an? (?:ai(?:,| (?:language )?(?:model|assistant))|large language|artificial intelligence)"
    r"|es tut mir leid\b|leider kann ich\b|(?:je suis )?désolée?,|lo siento,|mi dispiace,|desculpe,"
    r"|sinto muito,|很?抱歉|对不起[，,]|作为一个?(?:AI|人工智能)|申し訳|죄송합니다"
    # "i can't write to a usb stick" is a search query; a model writes a capital I, and names what
    # it does not write.
    r"|(?-i:I (?:cannot|can not|can['’]t|could not|couldn['’]t|will not|won['’]t|do not|don['’]t"
    r"|(?:am|['’]m) (?:unable|not able) to)|I['’]m (?:unable|not able) to)\s(?:[a-z]+ ){0,2}?"
    r"(?-i:provide|create|generate|assist|fulfill?|comply|produce|formulate|engage|have access to"
    r"|have enough|(?:write|answer|help|discuss) (?:an?|any|the|this|that|such|you|with))\b)",
    re.IGNORECASE,
)
_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_REASONING_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
    r"|\[/?INST\]|<br ?/?>"
)


def visible(answer: str) -> str:
    """The answer without reasoning, special tokens and invisible characters."""
    # Some chat templates open the reasoning themselves, and the answer only closes it.
    text = _REASONING_END.split(_REASONING.sub("\n", answer))[-1]
    text = _SPECIAL_TOKEN.sub("\n", text)
    # Joiners belong to words in Persian, Hindi and other languages; other format characters (Cf),
    # such as direction marks, do not. Lone surrogates and U+FFFD are left where the end of the
    # answer cut a character in two.
    characters = [
        c
        for c in text
        if c.isspace()
        or c in "\u200c\u200d"
        or (c != "\ufffd" and unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    ]
    return unicodedata.normalize("NFC", "".join(characters))
