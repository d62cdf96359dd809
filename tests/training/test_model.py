"""What --model may name."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.models.student import load_student
from ldx.models.towers import with_passage_map
from ldx.step.state import TrainState
from ldx.training.checkpoint import Checkpoints, Progress
from ldx.training.model import declared_template, load_model
from tests import toy
from tests.helpers import count_texts


def test_a_folder_with_other_lengths(tiny_bert: Path) -> None:
    model = load_model(str(tiny_bert), query_max_length=8, passage_max_length=None)
    assert model.student.config.query_max_length == 8
    assert model.student.config.passage_max_length == 64
    assert model.towers.are_one
    assert model.towers.query is model.student.params


def test_a_workdir_gives_its_best_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    student = load_student(tiny_bert)
    section = {"path": str(tiny_bert), "pooling": "cls", "query_max_length": 16}
    (tmp_path / "config.json").write_text(json.dumps({"model": section}))
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        params = jax.tree.map(lambda x, step=step: x + step, student.params)
        state = TrainState(jnp.int32(step), params, {"count": jnp.int32(step)})
        checkpoints.save(state, Progress(step=step, evaluated_step=step, best_step=1))
    model = load_model(str(tmp_path), passage_max_length=32)
    config = model.student.config
    assert (config.pooling, config.query_max_length, config.passage_max_length) == ("cls", 16, 32)
    for got, base in zip(
        jax.tree.leaves(model.towers.query), jax.tree.leaves(student.params), strict=True
    ):
        np.testing.assert_array_equal(got, base + 1)
    assert model.passage_fingerprint != load_model(tiny_bert).passage_fingerprint


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_model(str(tmp_path / "nowhere"))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no section model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("left", ["prep/corpus.json", "records/manifest.json", "progress.json"])
def test_a_workdir_without_a_checkpoint_is_named_as_such(tmp_path: Path, left: str) -> None:
    """After the stages of data_prep, or before the first evaluation of ldx.train."""
    (tmp_path / "prep").mkdir()
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("{}")
    (tmp_path / "config.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match=r"a workdir of ldx\.train without a checkpoint yet; run"):
        load_model(tmp_path)


def test_how_title_and_text_were_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the run's config says; of several sources, as all their records say, if they agree."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    records = [str(toy.make_records(tmp_path / name)) for name in ("a", "b")]
    data = {"passage_template": "{title}", "sources": {}}
    several = data | {"sources": {name: {"records": name} for name in records}}
    for section, expected in ((data, "{title}"), (several, "{text}")):
        (tmp_path / "run" / "config.json").write_text(json.dumps({"data": section}))
        assert declared_template(str(tmp_path / "run")) == expected
    manifest = Path(records[1], "manifest.json")
    manifest.write_text(manifest.read_text().replace("{text}", "{title} {text}"))
    assert declared_template(str(tmp_path / "run")) is None

    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "ldx_export.json").write_text('{"passage_template": "{text}!"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    assert declared_template("~/export") == "{text}!"
    assert declared_template("package:x==1") is declared_template(None) is None


def query_run(workdir: Path, tiny_bert: Path, *, passage_map: bool = False, best: int = 1) -> Path:
    """What a run of the query tower leaves: step 0 is the base model, step 1 another one."""
    section = {"path": str(tiny_bert), "query_max_length": 16}
    train = {"towers": "query", "passage_map": "linear" if passage_map else None}
    workdir.mkdir()
    config = {"model": section, "train": train, "data": {"passage_template": "{text}"}}
    (workdir / "config.json").write_text(json.dumps(config))
    params = load_student(tiny_bert).params
    checkpoints = Checkpoints(workdir)
    for step in (0, 1):
        own = jax.tree.map(lambda x, step=step: x + 0.1 * step, params)
        if passage_map:
            own = with_passage_map(own)
            own["passage_map"]["kernel"] += 0.1 * step * jnp.eye(32)[::-1]
        state = TrainState(jnp.int32(step), own, {"count": jnp.int32(step)})
        checkpoints.save(state, Progress(step=step, evaluated_step=step, best_step=min(best, step)))
    return workdir


TEXTS = ["banded matrix solver", "lift of a wing", "blood cell protein"]


def test_a_run_of_the_query_tower_leaves_passages_to_the_base_model(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = query_run(tmp_path / "run", tiny_bert)
    model, base = load_model(workdir), load_model(tiny_bert, passage_template="{text}")
    np.testing.assert_array_equal(model.encode_passages(TEXTS), base.encode_passages(TEXTS))
    assert not np.allclose(model.encode_queries(TEXTS), base.encode_queries(TEXTS), atol=1e-3)
    assert model.passage_fingerprint == base.passage_fingerprint

    # An index that the base model made is that of the student; another model has its own.
    sizes = count_texts(monkeypatch)
    index = base.index(TEXTS, cache=tmp_path / "cache")
    assert sizes == [3]
    np.testing.assert_array_equal(
        model.index(TEXTS, cache=tmp_path / "cache").embeddings, index.embeddings
    )
    assert sizes == [3]
    for other in ({"passage_prompt": "a "}, {"passage_max_length": 4}, {"pooling": "cls"}):
        stranger = load_model(tiny_bert, passage_template="{text}", **other)
        assert stranger.passage_fingerprint != base.passage_fingerprint
        embeddings = stranger.index(TEXTS, cache=tmp_path / "cache").embeddings
        assert not np.array_equal(embeddings, index.embeddings)
    assert load_model(tiny_bert).passage_fingerprint != base.passage_fingerprint


def test_passages_of_a_run_are_looked_up_in_its_store(tiny_bert: Path, tmp_path: Path) -> None:
    model = load_model(query_run(tmp_path / "run", tiny_bert))
    store = model.store
    assert store is not None
    first = model.index(TEXTS).embeddings
    index = load_model(tmp_path / "run").index(TEXTS, cache=tmp_path / "cache")
    np.testing.assert_array_equal(index.embeddings, first)
    assert (store.num_embedded, store.num_requested) == (3, 6)
    index.search("a query that somebody types")
    assert store.num_requested == 6


def test_a_passage_map_changes_the_embeddings_of_the_base_model(
    tiny_bert: Path, tmp_path: Path
) -> None:
    model = load_model(query_run(tmp_path / "run", tiny_bert, passage_map=True))
    base = load_model(tiny_bert, passage_template="{text}")
    before = base.encode_passages(TEXTS)
    mapped = before + before[:, ::-1] * np.float32(0.1)
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode_passages(TEXTS), mapped, atol=1e-6)
    np.testing.assert_allclose(model.index(TEXTS).embeddings, mapped, atol=1e-6)
    cached = model.index(TEXTS, cache=tmp_path / "cache").embeddings
    np.testing.assert_allclose(cached, mapped, atol=1e-6)
    assert model.passage_fingerprint != base.passage_fingerprint


@pytest.mark.parametrize("passage_map", [False, True])
def test_a_query_run_that_kept_the_base_model_is_the_base_model(
    tiny_bert: Path, tmp_path: Path, passage_map: bool
) -> None:
    workdir = query_run(tmp_path / "run", tiny_bert, passage_map=passage_map, best=0)
    model = load_model(workdir)
    assert model.towers.are_one
    np.testing.assert_array_equal(
        model.encode_queries(TEXTS), load_model(tiny_bert).encode_queries(TEXTS)
    )
