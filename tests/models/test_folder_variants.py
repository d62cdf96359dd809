"""Whatever a sentence-transformers folder declares is applied as by that library, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from ldx.common.errors import UserError
from ldx.training.model import load_model
from tests.conftest import TINY_WORDS

WORDS = [word for word in TINY_WORDS if word.isalpha()]
TEXTS = [
    " ".join(WORDS[:8]),
    " ".join(word.capitalize() for word in WORDS[5:12]),
    " ".join(WORDS * 3),
    f"\u00c9t\u00e9 [MASK] newtok {WORDS[3]}",
    f"a b c \u6c34 {WORDS[1]}",
]
CONFIG, PROMPTS = "tokenizer_config.json", "config_sentence_transformers.json"
BERT, POOLING = "sentence_bert_config.json", "1_Pooling/config.json"
Change = Callable[[Path], None]


def edit(name: str, **values: object) -> Change:
    """Set keys of a JSON file; those that are None are removed."""

    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        content = {k: v for k, v in (content | values).items() if v is not None}
        path.write_text(json.dumps(content))

    return change


def edit_tokenizer(change_content: Callable[[dict], object]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        change_content(content)
        path.write_text(json.dumps(content))

    return change


not_lower = edit_tokenizer(lambda content: content["normalizer"].update(lowercase=False))
left = {"direction": "Left", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
SAME: dict[str, list[Change]] = {
    "as saved": [],
    "case is kept": [edit(CONFIG, do_lower_case=False)],
    "lower case, tokenizer.json keeps it": [edit(CONFIG, do_lower_case=True), not_lower],
    "tokenizer.json keeps case, nothing said": [edit(CONFIG, do_lower_case=None), not_lower],
    "no class, case is kept": [edit(CONFIG, do_lower_case=False, tokenizer_class=None)],
    "generic, tokenizer.json keeps case": [
        edit(CONFIG, do_lower_case=True, tokenizer_class="PreTrainedTokenizerFast"),
        not_lower,
    ],
    "no tokenizer_config.json": [lambda folder: (folder / CONFIG).unlink(), not_lower],
    "accents are kept": [edit(CONFIG, strip_accents=False)],
    "Chinese letters are no words": [edit(CONFIG, tokenize_chinese_chars=False)],
    "another normalizer in tokenizer.json": [
        edit_tokenizer(lambda content: content.update(normalizer={"type": "Lowercase"}))
    ],
    "model_max_length": [edit(CONFIG, model_max_length=8), edit(BERT, max_seq_length=None)],
    "max_seq_length": [edit(BERT, max_seq_length=8)],
    "lower case of its own": [edit(BERT, do_lower_case=True), edit(CONFIG, do_lower_case=False)],
    "a default prompt": [
        edit(PROMPTS, prompts={"query": f"{WORDS[0]} "}, default_prompt_name="query")
    ],
    "a default prompt of another name": [
        edit(PROMPTS, prompts={"x": f"{WORDS[3]} "}, default_prompt_name="x")
    ],
    "document": [edit(PROMPTS, prompts={"query": "a ", "document": f"{WORDS[2]} "})],
    "document before passage": [
        edit(PROMPTS, prompts={"query": "", "passage": "b ", "document": f"{WORDS[2]} "})
    ],
    "another mask": [edit(CONFIG, mask_token=WORDS[0])],
    "an unknown word of another name": [edit(CONFIG, unk_token=WORDS[0])],
    "no added tokens in tokenizer.json": [
        edit_tokenizer(lambda content: content.update(added_tokens=[]))
    ],
    "an epsilon": [edit("config.json", layer_norm_eps=1e-2)],
}
REFUSED: dict[str, tuple[list[Change], str]] = {
    "truncation_side": ([edit(CONFIG, truncation_side="left")], "truncation_side is 'left'"),
    "padding_side": ([edit(CONFIG, padding_side="left")], "padding_side is 'left'"),
    "truncation in tokenizer.json": (
        [edit_tokenizer(lambda content: content.update(truncation=left))],
        "truncation.direction is 'Left'",
    ),
    "tokens of the config": (
        [edit(CONFIG, added_tokens_decoder={"5": {"content": "newtok"}})],
        "added_tokens_decoder.5 is 'newtok'",
    ),
    "added_tokens.json": ([edit("added_tokens.json", newtok=5)], "added_tokens.json: a token"),
    "another cls": ([edit(CONFIG, cls_token=WORDS[0])], "cls_token is "),
    "another sep in the map": (
        [edit("special_tokens_map.json", sep_token={"content": WORDS[0]})],
        "special_tokens_map.json: sep_token is ",
    ),
    "a mask that is not in the vocabulary": ([edit(CONFIG, mask_token="<mask>")], "does not have"),
    "no mask of attention": ([edit(CONFIG, model_input_names=["input_ids"])], "attention_mask"),
    "another class": ([edit(CONFIG, tokenizer_class="RobertaTokenizer")], "tokenizer_class is"),
    "truncate_dim": ([edit(PROMPTS, truncate_dim=8)], "truncate_dim is 8"),
    "tokenizer_args": (
        [edit(BERT, tokenizer_args={"truncation_side": "left"})],
        "tokenizer_args has truncation_side",
    ),
    "processor_kwargs": (
        [edit(BERT, processor_kwargs={"truncation_side": "left"})],
        "processor_kwargs has truncation_side",
    ),
    "include_prompt": ([edit(POOLING, include_prompt=False)], "include_prompt=false"),
}


@pytest.fixture
def make(tiny_bert: Path, tmp_path: Path) -> Callable[[list[Change]], Path]:
    def make(changes: list[Change]) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny_bert, folder)
        for change in changes:
            change(folder)
        return folder

    return make


@pytest.mark.parametrize("variant", SAME)
def test_the_same_embeddings(make, variant: str) -> None:
    folder = make(SAME[variant])
    ours, theirs = load_model(folder), SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(ours.encode_queries(TEXTS), theirs.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(
        ours.encode_passages(TEXTS), theirs.encode_document(TEXTS), atol=1e-5
    )


@pytest.mark.parametrize("variant", REFUSED)
def test_what_is_not_supported_is_told_when_the_model_is_loaded(make, variant: str) -> None:
    changes, message = REFUSED[variant]
    with pytest.raises(UserError) as caught:
        load_model(make(changes))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_a_prompt_for_passages_that_sentence_transformers_forgets(make, name: str) -> None:
    """Its list for documents goes on with these names, but "document" is always there, empty."""
    folder = make([edit(PROMPTS, prompts={"query": "", name: f"{WORDS[3]} "})])
    ours, theirs = load_model(folder), SentenceTransformer(str(folder), device="cpu")
    assert not np.allclose(ours.encode_passages(TEXTS), theirs.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(
        ours.encode_passages(TEXTS), theirs.encode(TEXTS, prompt_name=name), atol=1e-5
    )
