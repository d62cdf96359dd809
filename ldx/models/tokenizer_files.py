"""What the files of a tokenizer ask for together, as transformers 5 reads them.

transformers takes the vocabulary of tokenizer.json. Of BERT's tokenizer it makes the rest anew,
from tokenizer_config.json; a generic one (PreTrainedTokenizerFast) is as tokenizer.json has it.
What ldx does not do is refused when a model is loaded, because embeddings would silently be others.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ldx.common.errors import UserError, listing
from ldx.common.files import read_object, read_object_if_any

CONFIG = "tokenizer_config.json"
OF_BERT = (
    *(None, "BertTokenizer", "BertTokenizerFast"),
    *("DistilBertTokenizer", "DistilBertTokenizerFast"),
)
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer")
SPECIAL = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
"""The special tokens by the keys that name them, with what BERT calls them."""


def as_declared(folder: Path) -> dict[str, Any]:
    """The content of tokenizer.json with what the files beside it change.

    Raises:
      UserError: a file is no JSON object, or asks for what ldx does not do.
    """
    content = read_object(folder / "tokenizer.json")
    config = read_object_if_any(folder / CONFIG)
    problems = list(_problems(folder, content, config))
    if problems:
        raise UserError(
            f"{folder}: sentence-transformers would embed otherwise than ldx:\n{listing(problems)}"
        )
    model = content.get("model")
    content = {**content, "added_tokens": _added_tokens(folder, content, config)}
    is_of_bert = config.get("tokenizer_class") in OF_BERT
    if is_of_bert and isinstance(model, dict) and model.get("type", "WordPiece") == "WordPiece":
        return {**content, **_of_bert(config, model)}
    return content


def _added_tokens(
    folder: Path, content: Mapping[str, Any], config: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The added tokens, and the special ones that other files name of the vocabulary."""
    tokens = list(content.get("added_tokens") or [])
    vocabulary = _vocabulary(content)
    added = {token.get("content") for token in tokens if isinstance(token, dict)}
    for _, _, name in _named_tokens(folder, config):
        if name in vocabulary and name not in added:
            added.add(name)
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            tokens.append({"id": vocabulary[name], "content": name, **flags, "special": True})
    return tokens


def _vocabulary(content: Mapping[str, Any]) -> Mapping[str, int]:
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return vocabulary if isinstance(vocabulary, dict) else {}


def _of_bert(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a BERT tokenizer that transformers makes anew."""
    names = {key: _name(config.get(key)) or default for key, default in SPECIAL.items()}
    cls, sep = names["cls_token"], names["sep_token"]
    vocabulary = model.get("vocab", {})
    parts = [{"SpecialToken": {"id": cls, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    parts.append({"SpecialToken": {"id": sep, "type_id": 0}})
    pair = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": sep, "type_id": 1}}]
    return {
        "model": {**model, "unk_token": names["unk_token"]},
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": config.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": parts + pair,
            "special_tokens": {
                name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]}
                for name in (cls, sep)
                if name in vocabulary
            },
        },
    }


def _problems(folder: Path, content: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """What the files ask for and ldx does not do, each with its file and key."""
    kind = config.get("tokenizer_class")
    if kind not in (*OF_BERT, *GENERIC):
        kinds = ", ".join(str(name) for name in (*OF_BERT, *GENERIC) if name)
        yield f"{CONFIG}: tokenizer_class is {kind!r}; supported: {kinds}"
    for key in ("truncation_side", "padding_side"):
        if config.get(key, "right") != "right":
            yield f"{CONFIG}: {key} is {config[key]!r}; supported: 'right'"
    truncation = content.get("truncation") or {}
    if truncation.get("direction", "Right") != "Right":
        direction = truncation["direction"]
        yield f"tokenizer.json: truncation.direction is {direction!r}; supported: 'Right'"
    inputs = config.get("model_input_names")
    if inputs is not None and "attention_mask" not in inputs:
        yield f"{CONFIG}: model_input_names is {inputs}, without attention_mask"
    tokens = content.get("added_tokens") or []
    known = {token.get("content") for token in tokens if isinstance(token, dict)}
    known |= _vocabulary(content).keys()
    around = set(re.findall(r'"([^"]*)"', json.dumps(content.get("post_processor"))))
    for file, key, name in _named_tokens(folder, config):
        if name not in known:
            yield f"{file}: {key} is {name!r}, which tokenizer.json does not have"
        elif key in ("cls_token", "sep_token") and name not in (SPECIAL[key], *around):
            yield f"{file}: {key} is {name!r}, which tokenizer.json does not put around a text"


def _named_tokens(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The tokens that other files than tokenizer.json name: file, key and content."""
    specials = {CONFIG: config}
    specials["special_tokens_map.json"] = read_object_if_any(folder / "special_tokens_map.json")
    for file, values in specials.items():
        for key in SPECIAL:
            if name := _name(values.get(key)):
                yield file, key, name
        more = values.get("additional_special_tokens") or values.get("extra_special_tokens") or ()
        for name in filter(None, map(_name, more if isinstance(more, list) else ())):
            yield file, "additional_special_tokens", name
    decoder = config.get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        if name := _name(token):
            yield CONFIG, f"added_tokens_decoder.{number}", name
    for name in read_object_if_any(folder / "added_tokens.json"):
        yield "added_tokens.json", "a token", name


def _name(token: Any) -> str | None:
    """The content of a token, which stands as a text or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
