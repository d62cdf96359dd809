"""A model's tokenizer, as token ids without special tokens, and model input made from such ids."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers

from ldx.common.errors import UserError
from ldx.common.files import fingerprint
from ldx.models.tokenizer_files import as_declared


class SpecialTokens(Protocol):
    """The token ids around a text, and the one that fills up shorter texts."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """The token ids before every text."""

    @property
    def suffix(self) -> tuple[int, ...]:
        """The token ids after every text."""

    @property
    def pad_id(self) -> int:
        """The token id of padding."""


def num_special(tokens: SpecialTokens) -> int:
    """The number of special tokens around every text."""
    return len(tokens.prefix) + len(tokens.suffix)


class Tokenizer:
    """The tokenizer of a folder, as transformers makes it; its own truncation is switched off.

    Texts of a batch are tokenised in threads without the GIL. (ldx leaves TOKENIZERS_PARALLELISM
    alone: while it is unset, the library runs threads and still survives a later fork.)

    Args:
      folder: the folder of tokenizer.json.
      lower_case: whether to lower-case texts first, whatever tokenizer.json says.

    Raises:
      UserError: tokenizer.json is missing, damaged, or adds special tokens within a text; or a file
        beside it asks for what ldx does not do.
    """

    def __init__(self, folder: str | Path, *, lower_case: bool = False):
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"{path}: no such file. Where transformers is installed, make it with\n"
                f'  python -c "from transformers import AutoTokenizer as T; '
                f"T.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        declared = as_declared(path.parent)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(declared))
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"{path}: not a tokenizer ({error})") from None
        padding = self._tokenizer.padding
        pad_id = padding["pad_id"] if padding else self._tokenizer.token_to_id("[PAD]")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if lower_case:
            _lower_case_first(self._tokenizer)
        self.pad_id: int = pad_id or 0
        self.prefix, self.suffix = _special_ids(self._tokenizer, path)
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        self.fingerprint = fingerprint(self._tokenizer.to_str())

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids int32 of each text, without special tokens, truncation or padding."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]


def pad_tokens(
    ids: Sequence[np.ndarray] | np.ndarray,
    tokenizer: SpecialTokens,
    *,
    max_length: int,
    padded_length: int,
    num_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Model input for some texts: their token ids and mask, padded to one shape.

    Args:
      ids: token ids of each text, without special tokens.
      tokenizer: the special tokens around a text.
      max_length: the most tokens of a text, special tokens included; longer texts are cut.
      padded_length: the width of the result.
      num_rows: the height; rows beyond the texts hold an empty text, so that all stays finite.

    Returns:
      token_ids int32 and mask bool (False is padding), both [num_rows, padded_length].
    """
    prefix, suffix = tokenizer.prefix, tokenizer.suffix
    room = max_length - num_special(tokenizer)
    assert len(ids) <= num_rows, (len(ids), num_rows)
    assert room >= 0, max_length
    cut = [x[:room] for x in ids]
    ends = np.full((num_rows, 1), len(prefix))  # where the suffix of each row begins
    ends[: len(cut), 0] += np.fromiter(map(len, cut), int, len(cut))
    assert ends.max(initial=0) + len(suffix) <= padded_length, (ends.max(), padded_length)
    columns = np.arange(padded_length)[None]
    token_ids = np.full((num_rows, padded_length), tokenizer.pad_id, np.int32)
    if cut:
        token_ids[(columns >= len(prefix)) & (columns < ends)] = np.concatenate(cut)
    token_ids[:, : len(prefix)] = prefix
    token_ids[np.arange(num_rows)[:, None], ends + np.arange(len(suffix))[None]] = suffix
    return token_ids, columns < ends + len(suffix)


def _special_ids(
    tokenizer: tokenizers.Tokenizer, path: Path
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    for start in range(len(whole) - len(bare) + 1):
        end = start + len(bare)
        if whole[start:end] == bare:
            return tuple(whole[:start]), tuple(whole[end:])
    raise UserError(f"{path}: its post-processor does more than put special tokens around a text")


def _lower_case_first(tokenizer: tokenizers.Tokenizer) -> None:
    steps = [tokenizers.normalizers.Lowercase()]
    if tokenizer.normalizer is not None:
        steps.append(tokenizer.normalizer)
    tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
