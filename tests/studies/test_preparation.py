"""Which cells of a study share their training lists."""

import importlib

import pytest

from configs import base
from configs.studies import common
from data_prep.pipeline.order import GRADED_STAGES, STAGES
from ldx.studies.declare import expand, read_study
from ldx.studies.preparation import prepared_for
from tests import toy

STAGE_KEYS = sorted(
    {
        key
        for name in {*STAGES, *GRADED_STAGES}
        for key in importlib.import_module(f"data_prep.{name}").STAGE.keys
    }
    # The collection's content counts instead of its path; records are in the workdir.
    - {"data.root", "data.records"}
)


@pytest.fixture
def cell():
    config = common.make_study("toy", "Does it?", base.get_config(), {"x": {"y": {}}})
    (cell,) = expand(read_study(config.to_dict()))
    return cell


def name_of(cell, folder, seed=0, root=""):
    return prepared_for(cell, root, seed, folder).name


@pytest.mark.parametrize("key", STAGE_KEYS)
def test_what_a_stage_reads_is_in_the_key(cell, tmp_path, key):
    before = name_of(cell, tmp_path)
    if key == "seed":
        assert name_of(cell, tmp_path, seed=1) != before
        return
    *sections, last = key.split(".")
    section = cell.config
    for name in sections:
        section = section[name]
    assert last in section
    section[last] = {"changed": 1} if isinstance(section[last], dict) else "changed"
    assert name_of(cell, tmp_path) != before


def test_keys_of_loss_are_among_them():
    assert {key for key in STAGE_KEYS if key.startswith("loss.")} == {
        "loss.listwise_kl.student_temperature",
        "loss.listwise_kl.teacher_temperature",
    }


def test_what_training_alone_reads_is_shared(cell, tmp_path):
    before = name_of(cell, tmp_path)
    cell.config["loss"]["info_nce"]["weight"] = 7.0
    cell.config["optim"]["learning_rate"] = 7.0
    cell.config["model"]["attention"] = "xla"
    cell.config["prep"]["python"] = {"mine": "python3"}
    assert name_of(cell, tmp_path) == before
    cell.config["model"]["path"] = "another"
    assert name_of(cell, tmp_path) != before


def test_the_content_of_a_collection_is_in_the_key(cell, tmp_path):
    root = toy.make_collection(tmp_path / "toy")
    before = name_of(cell, tmp_path, root=str(root))
    with open(root / "corpus.jsonl", "a") as file:
        file.write('{"_id": "new", "title": "", "text": "another passage"}\n')
    assert name_of(cell, tmp_path, root=str(root)) != before
