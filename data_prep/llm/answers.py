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
    r"|es tut mir leid\b|leider (?:kann|ist|gibt|habe) |(?:je suis )?désolée?,|lo siento,"
    r"|mi dispiace,|desculpe,|sinto muito,|malheureusement,? (?:je|il)"
    r"|lamentablemente,? (?:no|el|la)"
    r"|infelizmente,? (?:eu|n[aã]o|o|a)|purtroppo,? (?:non|il|la)|het spijt (?:me|mij)"
    r"|helaas (?:kan|is|heb) |przepraszam,|niestety,? (?:nie|ja)|je mi líto,|omlouvám se,"
    r"|извините,|к сожалению,? |простите,|вибачте,|на жаль,? |üzgünüm,|maalesef,? |xin lỗi,"
    r"|آسف،|عذر[اً]،|متأسفم،|क्षमा करें|माफ़ ?करें|maaf,|很?抱歉[，,]|很?遗憾[，,]|对不起[，,]"
    r"|(?:我)?(?:無法|无法|不能)(?:提供|生成).{0,12}(?:查询|问题|內容|内容|回答)"
    r"|作为一个?(?:AI|人工智能)|申し訳|恐れ入りますが|すみませんが|죄송(?:하|합)|유감스럽게도|ขออภัย"
    # "i can't write to a usb stick" is a search query; a model writes a capital I, and names what
    # it does not write.
    r"|(?-i:I (?:cannot|can not|can['’]t|could not|couldn['’]t|will not|won['’]t|do not|don['’]t"
    r"|(?:am|['’]m) (?:unable|not able) to)|I['’]m (?:unable|not able) to)\s(?:[a-z]+ ){0,2}?"
    r"(?-i:provide|create|generate|assist|fulfill?|comply|produce|formulate|engage|have access to"
    r"|have enough|(?:write|answer|help|discuss) (?:an?|any|the|this|that|such|you|with))\b)",
    re.IGNORECASE,
)
_THINKS = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)"
_REASONING = re.compile(
    rf"[<◁]({_THINKS})[>▷].*?(?:[<◁]/\1[>▷]|\Z)"
    # Square brackets are marks of a text too, so these count where they are closed, or come first.
    r"|\[THINK\].*?\[/THINK\]|\A\s*\[THINK\].*",
    re.DOTALL | re.IGNORECASE,
)
_REASONING_END = re.compile(rf"[<◁]/{_THINKS}[>▷]|\[/THINK\]", re.IGNORECASE)
# gpt-oss thinks in a channel of its own. Its tokens may be gone: "analysisThe user ...
# assistantfinalhow to sort".
_CHANNELS = re.compile(
    r"<\|channel\|>(?:analysis|commentary)<\|message\|>.*?(?:<\|channel\|>final<\|message\|>|\Z)"
    r"|\A\s*(?:analysis|commentary)(?=\S).*?assistantfinal",
    re.DOTALL,
)
# What a model puts its answer into: \\boxed{...}, <answer>...</answer>, a box of GLM's.
_BOX = re.compile(
    r"\\boxed\{(?:\\text\{)?(?P<tex>[^{}]*)\}?\}|<answer>(?P<tag>.*?)(?:</answer>|\Z)"
    r"|<\|begin_of_box\|>(?P<box>.*?)(?:<\|end_of_box\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_AFTER_A_BOX = re.compile(r"[\s$.]*")
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
    r"|\[/?INST\]|<br ?/?>"
)


def unboxed(answer: str) -> str:
    """What stands in the box that an answer ends with; the answer where it ends otherwise."""
    boxes = list(_BOX.finditer(answer))
    if not boxes or not _AFTER_A_BOX.fullmatch(answer, boxes[-1].end()):
        return answer
    return next(inner for inner in boxes[-1].groups() if inner is not None)


def visible(answer: str) -> str:
    """The answer without reasoning, special tokens and invisible characters."""
    text = _CHANNELS.sub("\n", answer)
    # Some chat templates open the reasoning themselves, and the answer only closes it.
    text = _REASONING_END.split(_REASONING.sub("\n", text))[-1]
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
