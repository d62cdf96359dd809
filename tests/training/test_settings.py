"""Configs are checked at the door, and every experiment of configs/ passes."""

import importlib
import inspect
import json

import pytest

from configs import base, recipes
from data_prep.pipeline.settings import check_prep
from ldx.common.errors import UserError
from ldx.common.files import read_json, write_json
from ldx.models.section import MODEL_KEYS, check_model_section
from ldx.models.student import load_student
from ldx.training.settings import check_same_run, resolve, save_run

EXPERIMENTS = ("demo", "scifact", "nfcorpus", "fiqa", "cadet_general", "msmarco_dl19")
EXPERIMENTS += ("sycl", "mediqa2019", "mine")


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_resolves(name, variant):
    config = importlib.import_module(f"configs.{name}").get_config(variant).to_dict()
    # With so few lists a run would end within SyCL's warm-up, which is refused.
    settings = resolve(config, 100_000 if (name, variant) == ("sycl", "") else 3000)
    check_model_section(config["model"])
    check_prep(config["prep"])
    batch_size = config["data"]["batch_size"]
    assert settings.data.batch_size == (384 if batch_size == "auto" else batch_size)
    if variant == "smoke":
        assert config["eval"]["split"] == "test"  # what api_docs has judgments of
    assert "auto" not in str(settings.whole["optim"])
    assert settings.train.num_steps >= 1
    if variant == "smoke":  # whatever the teacher was, it is the hybrid now
        temperature = recipes.use_hybrid_teacher(base.get_config()).loss.listwise_kl
        assert config["loss"]["listwise_kl"]["teacher_temperature"] == (
            temperature.teacher_temperature
        )


def test_several_teachers_need_a_calibration():
    section = recipes.use_query_tower(base.get_config()).prep.to_dict()
    check_prep(section)
    section["teachers"]["other"] = {"kind": "run_file", "path": "scores.tsv"}
    with pytest.raises(UserError, match="calibration=none with the teachers hybrid, other"):
        check_prep(section)


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="there is smoke"):
        recipes.check_arg("smok")


def test_auto_follows_the_recipe():
    settings = resolve(base.get_config().to_dict(), 100_000)
    assert settings.data.batch_size == 4096
    assert settings.optim.learning_rate == pytest.approx(2e-4)
    assert settings.train.num_steps == 30 * 25
    assert settings.train.eval_every == 25
    assert settings.optim.warmup_steps == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["train"].update(batchsize=3), r"config.train.batchsize: .* no such key"),
        (lambda c: c["optim"].update(learning_ratio=3), r"did you mean optim\.learning_rate"),
        (lambda c: c["data"].pop("root"), r"config.data.root is missing"),
        (lambda c: c.pop("eval"), r"config.eval is missing"),
        (lambda c: c["train"].update(num_steps=0), r"config.train.num_steps=0"),
        (lambda c: c["train"].update(dev_pool="many"), r"config.train.dev_pool='many'"),
        (lambda c: c["data"].update(batch_size=-1), r"config.data.batch_size=-1"),
        (lambda c: c["optim"].update(warmup_steps=400), r"warmup_steps=400: the run has 120 "),
    ],
)
def test_mistakes_are_named(change, message):
    config = base.get_config().to_dict()
    change(config)
    with pytest.raises(UserError, match=message):
        resolve(config, 100)


def test_unknown_model_key_is_named():
    assert tuple(inspect.signature(load_student).parameters) == MODEL_KEYS
    with pytest.raises(UserError, match=r"config.model.poolin.*did you mean pooling"):
        check_model_section({"path": "x", "poolin": "mean"})


def test_only_logging_and_checkpoint_may_differ(tmp_path):
    whole = {"seed": 0, "logging": {"every_steps": 1}, "train": {"num_steps": 5}}
    save_run(tmp_path, whole, {"model": "a", "lists": "b"})
    check_same_run(tmp_path, whole | {"logging": {"every_steps": 9}}, {"model": "a", "lists": "b"})
    with pytest.raises(UserError, match=r"config.train.num_steps: the run has 5, now 6"):
        check_same_run(tmp_path, whole | {"train": {"num_steps": 6}}, {"model": "a", "lists": "b"})
    with pytest.raises(UserError, match="the model: changed"):
        check_same_run(tmp_path, whole, {"model": "other", "lists": "b"})
    write_json(tmp_path / "config.json", whole | {"seed": 1})
    with pytest.raises(UserError, match=r"config\.seed"):
        check_same_run(tmp_path, whole, {"model": "a", "lists": "b"})


def test_a_run_goes_on_with_other_paths_to_the_same(tmp_path, monkeypatch):
    """Of a model, of records and of judgments; the fingerprints say that they are the same."""
    monkeypatch.chdir(tmp_path)
    for name in ("here", "moved"):
        (tmp_path / name).mkdir()
    config = base.get_config().to_dict()
    config["model"]["path"] = "here"
    config["data"] |= {"root": "here", "sources": {"a": {"records": "here", "root": "here"}}}
    config["prep"] |= {"log": "here", "teachers": {"t": {"kind": "run_file", "path": "here"}}}
    found = {"model": "m", "lists of a": "l", "judgments of a": "j"}
    save_run(tmp_path, resolve(config, 100).whole, found)
    saved = read_json(tmp_path / "config.json")
    for section in (saved["model"], saved["prep"]["teachers"]["t"]):
        assert section["path"] == str(tmp_path / "here")
    assert saved["data"]["sources"]["a"]["records"] == str(tmp_path / "here")
    check_same_run(tmp_path, resolve(config, 100).whole, found)
    moved = json.loads(json.dumps(config).replace('"here"', '"moved"'))
    check_same_run(tmp_path, resolve(moved, 100).whole, found)
    with pytest.raises(UserError, match=r"config\.model\.path: the run has '.*here', now '.*moved"):
        check_same_run(tmp_path, resolve(moved, 100).whole, found | {"model": "other"})
    for name in ("lists of a", "judgments of a"):
        with pytest.raises(UserError, match=f"the {name}: changed since the run began"):
            check_same_run(tmp_path, resolve(moved, 100).whole, found | {name: "other"})
    gone = found | {"judgments of a": ""}
    check_same_run(tmp_path, resolve(moved, 100).whole, gone)  # they are for the report alone
    save_run(tmp_path, resolve(config, 100).whole, gone)
    check_same_run(tmp_path, resolve(moved, 100).whole, found)  # the first judgments
    config["data"]["query_type_weights"] = {"log": 0.5}
    with pytest.raises(UserError, match=r"query_type_weights\.log"):
        check_same_run(tmp_path, resolve(config, 100).whole, found)


def test_a_run_that_is_older_than_a_key_goes_on_where_the_key_has_its_default(tmp_path):
    config = base.get_config().to_dict()
    older = resolve(config, 100).whole
    del older["train"]["towers"], older["train"]["alpha"], older["prep"]["list_sampling"]
    save_run(tmp_path, older, {"model": "m"})
    check_same_run(tmp_path, resolve(config, 100).whole, {"model": "m"})
    config["train"]["towers"] = "query"
    with pytest.raises(UserError, match=r"config\.train\.towers: the run has 'both', now 'query'"):
        check_same_run(tmp_path, resolve(config, 100).whole, {"model": "m"})


def test_what_only_cuts_the_work_may_differ_when_a_run_goes_on(tmp_path):
    config = base.get_config().to_dict()
    settings = resolve(config, 100)
    save_run(tmp_path, settings.whole, {"model": "m"})
    config["train"] |= {"microbatch_tokens": 512, "activation_bytes": 0, "fsdp": 2}
    config["model"] |= {"remat": True, "attention": "xla"}
    check_same_run(tmp_path, resolve(config, 100).whole, {"model": "m"})


def test_sources_in_an_epoch_are_cut_on_their_own():
    config = base.get_config().to_dict()
    config["data"]["batch_size"] = 10
    assert resolve(config, 25, 11).train.eval_every == 3 + 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("block_size", 0), ("microbatch_tokens", 0), ("activation_bytes", -1), ("fsdp", 0)],
)
def test_numbers_out_of_range_are_named(key, value):
    config = base.get_config().to_dict()
    section = "data" if key == "block_size" else "train"
    config[section][key] = value
    with pytest.raises(UserError, match=f"config.{section}.{key}={value}"):
        resolve(config, 100)
