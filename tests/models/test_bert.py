"""The encoder equals transformers' BertModel, layer by layer, as a whole, and in its gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from ldx.common.errors import UserError
from ldx.models.bert import KEY_TABLE, Bert, BertConfig
from ldx.models.student import load_student
from ldx.models.weights import flatten
from tests.models.helpers import HfBert, edit_json, tokens


def torch_inputs(token_ids: np.ndarray, mask: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.from_numpy(token_ids).long(),
        "attention_mask": torch.from_numpy(mask).long(),
    }


@pytest.fixture(scope="module")
def encoder(hf_bert: HfBert) -> Bert:
    student = load_student(hf_bert.folder)
    return nnx.merge(student.graphdef, student.params)


def test_embeddings_and_every_layer(hf_bert: HfBert, encoder: Bert) -> None:
    token_ids, mask = tokens()
    with torch.no_grad():
        outputs = hf_bert.model(**torch_inputs(token_ids, mask), output_hidden_states=True)
    states = [state.numpy() for state in outputs.hidden_states]
    np.testing.assert_allclose(encoder.embeddings(token_ids), states[0], atol=1e-5)
    for layer, before, after in zip(encoder.layers, states[:-1], states[1:], strict=True):
        ours = np.asarray(layer(jnp.asarray(before), jnp.asarray(mask)))
        np.testing.assert_allclose(ours[mask], after[mask], atol=1e-5)


def test_whole_model(hf_bert: HfBert, encoder: Bert) -> None:
    token_ids, mask = tokens()
    with torch.no_grad():
        theirs = hf_bert.model(**torch_inputs(token_ids, mask)).last_hidden_state.numpy()
    ours = np.asarray(jax.jit(lambda i, m: encoder(i, m))(token_ids, mask))
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4)


def test_real_minilm(minilm: Path) -> None:
    import transformers

    student = load_student(minilm)
    token_ids, mask = tokens(num_texts=4, length=33, vocab_size=30_000)
    model = transformers.BertModel.from_pretrained(minilm).eval()
    with torch.no_grad():
        theirs = model(**torch_inputs(token_ids, mask)).last_hidden_state.numpy()
    encoder = nnx.merge(student.graphdef, student.params)
    ours = np.asarray(jax.jit(lambda i, m: encoder(i, m))(token_ids, mask))
    np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4)


def test_padding_changes_nothing(encoder: Bert) -> None:
    token_ids, mask = tokens()
    wide = np.pad(token_ids, ((0, 2), (0, 13)), constant_values=7)
    wide_mask = np.pad(mask, ((0, 2), (0, 13)))
    compiled = jax.jit(lambda i, m: encoder(i, m))
    ours, expected = np.asarray(compiled(wide, wide_mask)), np.asarray(compiled(token_ids, mask))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours[wide_mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "pooling"),
    [
        ("float32", 1e-5, "cls"),
        ("float64", 1e-11, "mean"),
    ],
)
def test_gradients(hf_bert: HfBert, dtype: str, tolerance: float, pooling: str) -> None:
    token_ids, mask = tokens()
    direction = np.random.default_rng(1).normal(size=(len(token_ids), 32)).astype(dtype)
    model = hf_bert.model.to(getattr(torch, dtype))
    model.zero_grad()
    hidden = model(**torch_inputs(token_ids, mask)).last_hidden_state
    weights = torch.from_numpy(mask).to(hidden)[:, :, None]
    pooled = (hidden * weights).sum(1) / weights.sum(1) if pooling == "mean" else hidden[:, 0]
    unit = torch.nn.functional.normalize(pooled)
    (unit * torch.from_numpy(direction)).sum().backward()
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    hf_bert.model.to(torch.float32)

    with jax.enable_x64(dtype == "float64"):
        student = load_student(hf_bert.folder, pooling=pooling)
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), student.params)

        def loss(params: dict) -> jax.Array:
            embeddings = student.embed(params, jnp.asarray(token_ids), jnp.asarray(mask))
            assert embeddings.dtype == dtype
            return (embeddings * direction).sum()

        ours = flatten(jax.device_get(jax.jit(jax.grad(loss))(params)))
    largest = max(np.abs(g).max() for g in theirs.values())
    for rule in KEY_TABLE.expand(2):
        gradient = ours[rule.path].T if rule.transpose else ours[rule.path]
        np.testing.assert_allclose(
            gradient, theirs[rule.hf_name], atol=tolerance * largest, rtol=0, err_msg=rule.hf_name
        )


def test_bfloat16_is_close_and_keeps_float32_parameters(hf_bert: HfBert) -> None:
    token_ids, mask = tokens()
    exact, rough = load_student(hf_bert.folder), load_student(hf_bert.folder, dtype="bfloat16")
    a, b = (np.asarray(jax.jit(s.embed)(s.params, token_ids, mask)) for s in (exact, rough))
    assert a.dtype == b.dtype == np.float32
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(rough.params))
    assert 1e-5 < np.abs(a - b).max() < 0.05


def test_config_names_everything_unsupported(st_folder: Path) -> None:
    path = st_folder / "config.json"
    edit_json(path, hidden_act="relu", position_embedding_type="relative_key", vocab_size="many")
    with pytest.raises(UserError, match=r"(?s)hidden_act is 'relu'.*'gelu'.*relative_key.*vocab"):
        BertConfig.from_hf(path)
    edit_json(path, model_type="roberta")
    with pytest.raises(UserError, match="model_type is 'roberta'; supported is 'bert'"):
        BertConfig.from_hf(path)


def test_auto_map_is_ignored_where_the_type_is_supported(st_folder: Path) -> None:
    edit_json(st_folder / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})
    load_student(st_folder)
