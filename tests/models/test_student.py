"""A student embeds as sentence-transformers does, and reads what its folder declares."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.models.student import Student, load_student
from ldx.models.tokenizer import pad_tokens
from tests.models.helpers import HfBert, edit_json

TEXTS = ["solve a banded linear system", "the lift of a wing", "", "matrix " * 90, "9.9!"]


def embed(student: Student, texts: list[str], max_length: int | None = None) -> np.ndarray:
    length = max_length or student.config.passage_max_length
    batch = pad_tokens(
        student.tokenizer.encode(texts),
        student.tokenizer,
        max_length=length,
        padded_length=length,
        num_rows=len(texts) + 2,
    )
    embeddings = np.asarray(jax.jit(student.embed)(student.params, *batch))
    assert np.isfinite(embeddings).all()
    assert embeddings.shape == (len(texts) + 2, student.embedding_size)
    return embeddings[: len(texts)]


def sentence_transformer(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def write_pooling(folder: Path, pooling: str, normalize: bool, old: bool) -> None:
    """Declare pooling in the way of old or of new sentence-transformers."""
    path = folder / "1_Pooling" / "config.json"
    if old:
        booleans = {
            f"pooling_mode_{key}_token{'s' * (key != 'cls')}": key == pooling
            for key in ("cls", "mean", "max", "mean_sqrt_len")
        }
        path.write_text(json.dumps({"word_embedding_dimension": 32, **booleans}))
    else:
        path.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": pooling}))
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules if old else []:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(modules[: 3 if normalize else 2]))


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_equals_sentence_transformers(
    st_folder: Path, pooling: str, normalize: bool, old: bool
) -> None:
    write_pooling(st_folder, pooling, normalize, old)
    student = load_student(st_folder)
    assert (student.config.pooling, student.config.normalize) == (pooling, normalize)
    theirs = sentence_transformer(st_folder).encode(TEXTS)
    np.testing.assert_allclose(embed(student, TEXTS), theirs, atol=1e-5)


def test_real_minilm_equals_sentence_transformers(minilm: Path) -> None:
    student = load_student(minilm)
    texts = [*TEXTS, "How do I interpolate scattered data in two dimensions? " * 40]
    assert student.config.passage_max_length == 256
    theirs = sentence_transformer(minilm).encode(texts)
    np.testing.assert_allclose(embed(student, texts), theirs, atol=1e-4)


def test_old_folder_with_the_transformer_in_a_subfolder(st_folder: Path) -> None:
    wanted = embed(load_student(st_folder), TEXTS)
    inner = st_folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (st_folder / name).rename(inner / name)
    modules = json.loads((st_folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (st_folder / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(embed(load_student(st_folder), TEXTS), wanted)


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "query: ", "passage": "passage: "}, None, ("query: ", "passage: ")),
        ({"query": "query: ", "document": "doc: "}, None, ("query: ", "doc: ")),
        ({"query": "q: ", "document": None, "passage": "p: "}, None, ("q: ", "p: ")),
        ({"query": "q: "}, None, ("q: ", "")),
        ({"query": "q: ", "document": "", "passage": "p: "}, None, ("q: ", "")),
        # The default prompt is that of encode(), which says nothing of queries and passages.
        ({"task": "find: "}, "task", ("", "")),
        ({"query": "q: ", "task": "find: "}, "query", ("q: ", "")),
        ({"document": ""}, None, ("", "")),
        (None, None, ("", "")),
    ],
)
def test_prompts(
    st_folder: Path, prompts: dict | None, default: str | None, expected: tuple[str, str]
) -> None:
    path = st_folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": prompts, "default_prompt_name": default}))
    config = load_student(st_folder).config
    assert (config.query_prompt, config.passage_prompt) == expected
    config = load_student(st_folder, query_prompt="mine ", passage_prompt="").config
    assert (config.query_prompt, config.passage_prompt) == ("mine ", "")


def test_prompts_equal_sentence_transformers(st_folder: Path) -> None:
    edit_json(
        st_folder / "config_sentence_transformers.json",
        prompts={"query": "query: ", "document": "passage: "},
    )
    student, model = load_student(st_folder), sentence_transformer(st_folder)
    queries = [student.config.query_prompt + text for text in TEXTS]
    passages = [student.config.passage_prompt + text for text in TEXTS]
    np.testing.assert_allclose(embed(student, queries), model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embed(student, passages), model.encode_document(TEXTS), atol=1e-5)


def test_plain_folder(st_folder: Path, hf_bert: HfBert) -> None:
    (st_folder / "modules.json").unlink()
    plain = load_student(st_folder)
    assert (plain.config.pooling, plain.config.normalize) == ("mean", True)
    np.testing.assert_array_equal(embed(plain, TEXTS), embed(load_student(hf_bert.folder), TEXTS))
    given = load_student(st_folder, pooling="cls", normalize=False, query_prompt="q: ").config
    assert (given.pooling, given.normalize, given.query_prompt) == ("cls", False, "q: ")


def test_max_lengths(st_folder: Path) -> None:
    assert load_student(st_folder).config.passage_max_length == 64  # tokenizer_config.json
    edit_json(st_folder / "sentence_bert_config.json", max_seq_length=48)
    config = load_student(st_folder).config
    assert (config.query_max_length, config.passage_max_length) == (48, 48)
    edit_json(st_folder / "sentence_bert_config.json", max_seq_length=4096)
    assert load_student(st_folder).config.passage_max_length == 128  # positions there are
    config = load_student(st_folder, query_max_length=8, passage_max_length=128).config
    assert (config.query_max_length, config.passage_max_length) == (8, 128)
    for length in (129, 2, 0):
        with pytest.raises(UserError, match=f"passage_max_length is {length}; .* 3 to 128"):
            load_student(st_folder, passage_max_length=length)


def set_modules(folder: Path, *types: str) -> None:
    modules = [{"idx": i, "name": str(i), "path": "", "type": t} for i, t in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_modules_that_are_not_supported(st_folder: Path) -> None:
    old = "sentence_transformers.models."
    set_modules(st_folder, old + "Transformer", old + "Pooling", old + "Dense", old + "Normalize")
    with pytest.raises(UserError, match=r"Transformer, Pooling, Dense, Normalize; supported"):
        load_student(st_folder)
    set_modules(st_folder, "custom_st.Transformer", old + "Pooling")
    with pytest.raises(UserError, match=r"custom_st\.Transformer is code of its own"):
        load_student(st_folder)
    (st_folder / "modules.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a list of modules"):
        load_student(st_folder)


def test_modules_stay_in_the_folder(st_folder: Path) -> None:
    modules = json.loads((st_folder / "modules.json").read_text())
    modules[1]["path"] = "../elsewhere"
    (st_folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="leads out of the folder"):
        load_student(st_folder)


def test_poolings_that_are_not_supported(st_folder: Path) -> None:
    path = st_folder / "1_Pooling" / "config.json"
    edit_json(path, pooling_mode="lasttoken")
    with pytest.raises(UserError, match=r"pooling is lasttoken; supported: mean or cls"):
        load_student(st_folder)
    assert load_student(st_folder, pooling="cls").config.pooling == "cls"
    edit_json(path, pooling_mode=["cls", "mean"])
    with pytest.raises(UserError, match=r"pooling is cls \+ mean"):
        load_student(st_folder)
    edit_json(path, pooling_mode="mean", include_prompt=False)
    with pytest.raises(UserError, match="include_prompt=false"):
        load_student(st_folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("pooling", "max"), ("attention", "flash"), ("dtype", "float16"), ("attention", "cudnn")],
)
def test_choices_that_do_not_exist(tiny_bert: Path, key: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}.*{value}"):
        load_student(tiny_bert, **{key: value})


@pytest.mark.parametrize(
    "name", ["config.json", "sentence_bert_config.json", "1_Pooling/config.json", "modules.json"]
)
@pytest.mark.parametrize("content", ["[1", "7"])
def test_damaged_settings_are_named(st_folder: Path, name: str, content: str) -> None:
    (st_folder / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: not"):
        load_student(st_folder)


def test_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model folder"):
        load_student(tmp_path)


def test_tokenizer_of_another_model(st_folder: Path, minilm: Path) -> None:
    (st_folder / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="not of one model"):
        load_student(st_folder)


def test_fingerprint(st_folder: Path, hf_bert: HfBert, tiny_bert: Path) -> None:
    first = load_student(hf_bert.folder).fingerprint
    assert load_student(st_folder).fingerprint == first
    assert load_student(st_folder, query_prompt="q: ").fingerprint != first
    assert load_student(st_folder, query_max_length=9).fingerprint != first
    assert load_student(tiny_bert).fingerprint != first
    edit_json(st_folder / "config.json", layer_norm_eps=1e-6)
    assert load_student(st_folder).fingerprint != first


def test_embed_runs_on_eight_devices(tiny_bert: Path) -> None:
    from ldx.parallel.embedder import Embedder
    from ldx.parallel.mesh import make_mesh

    student = load_student(tiny_bert)
    assert hash(student) == hash(student)
    batch = pad_tokens(
        student.tokenizer.encode(TEXTS),
        student.tokenizer,
        max_length=32,
        padded_length=32,
        num_rows=16,
    )
    embedder = Embedder(student.embed, make_mesh())
    params = embedder.put_params(student.params)
    sharded = embedder(params, *embedder.put_tokens(*batch))
    whole = jax.jit(student.embed)(student.params, *batch)
    np.testing.assert_allclose(sharded, whole, atol=1e-6)
