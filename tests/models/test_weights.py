"""Weights in and out of HF's format: bitwise both ways, and every fault named at once."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from ldx.common.errors import UserError
from ldx.models.bert import KEY_TABLE, Bert, BertConfig
from ldx.models.student import load_student
from ldx.models.weights import flatten, load_weights, save_weights, unflatten
from tests.models.helpers import HfBert, tokens

Tensors = dict[str, np.ndarray]


def read(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_same_params(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_random_params_there_and_back_are_bitwise_equal(st_folder: Path) -> None:
    config = BertConfig.from_hf(st_folder / "config.json")
    state = nnx.state(Bert(config, rngs=nnx.Rngs(3)))
    params = nnx.to_pure_dict(state)
    flat = flatten(params)
    assert_same_params(unflatten(flat), params)
    save_weights(st_folder / "model.safetensors", KEY_TABLE, config.num_layers, params)
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    back = load_weights(st_folder, KEY_TABLE, config.num_layers, shapes)
    assert_same_params(back, flat)


def test_transformers_reads_what_is_written(st_folder: Path) -> None:
    import torch
    import transformers

    student = load_student(st_folder)
    params = jax.tree.map(lambda p: p + 0.1, student.params)
    save_weights(st_folder / "model.safetensors", KEY_TABLE, 2, params)
    model, info = transformers.AutoModel.from_pretrained(
        st_folder, add_pooling_layer=False, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    strict = transformers.BertModel(model.config, add_pooling_layer=False)
    tensors = {name: torch.from_numpy(x) for name, x in read(st_folder).items()}
    strict.load_state_dict(tensors, strict=True)
    token_ids, mask = tokens()
    with torch.no_grad():
        theirs = strict.eval()(torch.from_numpy(token_ids), torch.from_numpy(mask).long())[0]
    encoder = nnx.merge(student.graphdef, params)
    ours = np.asarray(encoder(token_ids, jnp.asarray(mask)))
    np.testing.assert_allclose(ours[mask], theirs.numpy()[mask], atol=1e-4)


@pytest.mark.parametrize("style", ["prefix", "gamma", "extras", "float16", "bfloat16", "sharded"])
def test_other_styles_of_checkpoints(hf_bert: HfBert, st_folder: Path, style: str) -> None:
    tensors = read(st_folder)
    wanted = load_student(hf_bert.folder).params
    if style == "prefix":
        tensors = {f"bert.{name}": x for name, x in tensors.items()}
        tensors["cls.predictions.bias"] = np.zeros(3, np.float32)
    elif style == "gamma":
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for today, before in old.items():
            tensors = {name.replace(today, before): x for name, x in tensors.items()}
        assert any(name.endswith("gamma") for name in tensors)
    elif style == "extras":
        tensors["embeddings.position_ids"] = np.arange(128)[None]
        tensors["pooler.dense.weight"] = np.full((32, 32), np.nan, np.float32)
    elif style in ("float16", "bfloat16"):
        dtype = np.float16 if style == "float16" else ml_dtypes.bfloat16
        wanted = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), wanted)
        tensors = {name: x.astype(dtype) for name, x in tensors.items()}
    if style == "sharded":
        write_shards(st_folder, tensors)
    else:
        rewrite(st_folder, tensors)
    params = load_student(st_folder).params
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    assert_same_params(params, wanted)


def write_shards(folder: Path, tensors: Tensors) -> None:
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_missing_shard_is_named(st_folder: Path) -> None:
    write_shards(st_folder, read(st_folder))
    (st_folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"(?s)index.json.*model-00002-of-00002"):
        load_student(st_folder)


def test_all_faults_are_named_at_once(st_folder: Path) -> None:
    tensors = read(st_folder)
    del tensors["encoder.layer.1.output.dense.bias"]
    tensors["classifier.weight"] = np.zeros((2, 32), np.float32)
    tensors["embeddings.word_embeddings.weight"] = np.zeros((7, 32), np.float32)
    tensors["encoder.layer.0.attention.self.key.bias"][3] = np.nan
    tensors["encoder.layer.0.attention.self.query.bias"][3] = np.inf
    tensors["encoder.layer.0.output.dense.bias"] = np.zeros(32, np.int8)
    rewrite(st_folder, tensors)
    with pytest.raises(UserError) as caught:
        load_student(st_folder)
    message = str(caught.value)
    assert str(st_folder / "model.safetensors") in message
    for fault in (
        "missing: encoder.layer.1.output.dense.bias",
        "surplus: classifier.weight",
        "misshapen: embeddings.word_embeddings.weight is [7, 32], config.json wants [121, 32]",
        "not finite: encoder.layer.0.attention.self.key.bias",
        "not finite: encoder.layer.0.attention.self.query.bias",
        "not floats: encoder.layer.0.output.dense.bias is I8",
    ):
        assert fault in message


def test_same_tensor_twice(st_folder: Path) -> None:
    tensors = read(st_folder)
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]
    rewrite(st_folder, tensors)
    with pytest.raises(UserError, match=r"twice: embeddings\.LayerNorm\.weight"):
        load_student(st_folder)


def test_truncated_file(st_folder: Path) -> None:
    path = st_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged safetensors"):
        load_student(st_folder)


@pytest.mark.parametrize("plain", [True, False])
def test_pytorch_weights_alone(st_folder: Path, plain: bool) -> None:
    (st_folder / "model.safetensors").rename(st_folder / "pytorch_model.bin")
    if plain:
        (st_folder / "modules.json").unlink()
    tool = "AutoModel" if plain else "SentenceTransformer"
    with pytest.raises(UserError, match=rf"(?s)only pytorch_model.bin.*python -c.*{tool}"):
        load_student(st_folder)
