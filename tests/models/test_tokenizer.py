"""Token ids equal those of transformers, and model input made from ids equals its padding."""

from pathlib import Path

import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.models.tokenizer import Tokenizer, pad_tokens
from tests.models.helpers import edit_json

TEXTS = ["solve the banded linear system", "", "WING-lift: 3.5", "matrix " * 100, "[SEP] in text"]


@pytest.fixture
def tokenizer(tiny_bert: Path) -> Tokenizer:
    return Tokenizer(tiny_bert)


@pytest.mark.parametrize("max_length", [3, 8, 64])
def test_equals_transformers(tiny_bert: Path, tokenizer: Tokenizer, max_length: int) -> None:
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(tiny_bert)(
        TEXTS, padding="max_length", truncation=True, max_length=max_length, return_tensors="np"
    )
    token_ids, mask = pad_tokens(
        tokenizer.encode(TEXTS),
        tokenizer,
        max_length=max_length,
        padded_length=max_length,
        num_rows=len(TEXTS),
    )
    np.testing.assert_array_equal(token_ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, theirs["attention_mask"])
    assert token_ids.dtype == np.int32
    assert mask.dtype == bool


def test_truncation_and_padding_of_the_file_are_switched_off(minilm: Path) -> None:
    (ids,) = Tokenizer(minilm).encode(["matrix " * 300])
    assert len(ids) == 300


def test_rows_beyond_the_texts_hold_an_empty_text(tokenizer: Tokenizer) -> None:
    token_ids, mask = pad_tokens([], tokenizer, max_length=4, padded_length=6, num_rows=2)
    expected = [*tokenizer.prefix, *tokenizer.suffix]
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.pad_id) == ((2,), (3,), 0)
    np.testing.assert_array_equal(token_ids[:, :2], [expected, expected])
    np.testing.assert_array_equal(mask.sum(axis=1), 2)


def test_lower_case(tmp_path: Path, tiny_bert: Path) -> None:
    import json

    value = json.loads((tiny_bert / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased, lower = Tokenizer(tmp_path), Tokenizer(tmp_path, lower_case=True)
    assert cased.fingerprint != lower.fingerprint
    np.testing.assert_array_equal(lower.encode(["Matrix"])[0], cased.encode(["matrix"])[0])
    assert not np.array_equal(cased.encode(["Matrix"])[0], cased.encode(["matrix"])[0])


def test_fingerprint_ignores_truncation_but_no_token(tiny_bert: Path, tmp_path: Path) -> None:
    text = (tiny_bert / "tokenizer.json").read_text()
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    cut = {"max_length": 9, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    edit_json(path, truncation=cut)
    assert Tokenizer(tmp_path).fingerprint == Tokenizer(tiny_bert).fingerprint
    path.write_text(text.replace('"matrix"', '"matrixes"'))
    assert Tokenizer(tmp_path).fingerprint != Tokenizer(tiny_bert).fingerprint


def test_missing_or_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*transformers(?s:.*)save_pretrained"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(UserError, match="not valid JSON"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer(tmp_path)
