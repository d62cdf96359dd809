"""Studies as they are declared: the cells they span, and what is refused."""

import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import base
from configs.studies import common, query_types
from data_prep.pipeline.settings import EXTRACTIVE_TYPES, LLM_TYPES
from data_prep.pipeline.workspace import open_workspace
from data_prep.preflight.checks import check_config
from ldx.common.errors import UserError
from ldx.eval.metrics import score_run
from ldx.step.objective import make_objective
from ldx.studies.declare import expand, read_study
from ldx.studies.samples import check_samples
from ldx.training.settings import resolve

STUDIES = sorted(
    path.stem
    for path in Path(common.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "common")
)


def make(axes: common.Axes, **keys) -> ConfigDict:
    config = common.make_study("toy", "Does it?", base.get_config(), axes)
    for key, value in keys.items():
        config.study[key] = value
    return config


def cells_of(config: ConfigDict):
    return expand(read_study(config.to_dict()))


LOSS = {"kl": {"loss.info_nce.weight": 0.0}, "a_sum": {"loss.info_nce.weight": 0.5}}
TEACHERS = {"hybrid": {}, "given": {"prep.teachers": {"file": {"kind": "run_file", "path": "x"}}}}


def test_cells_are_all_combinations_in_the_declared_order():
    cells = cells_of(make({"loss": LOSS, "teacher": TEACHERS}, seeds=(0, 7)))
    assert [cell.name for cell in cells] == [
        "kl--hybrid--seed0",
        "kl--hybrid--seed7",
        "kl--given--seed0",
        "kl--given--seed7",
        "a_sum--hybrid--seed0",
        "a_sum--hybrid--seed7",
        "a_sum--given--seed0",
        "a_sum--given--seed7",
    ]
    first, last = cells[0].config, cells[-1].config
    assert (first["seed"], last["seed"]) == (0, 7)
    assert first["loss"]["info_nce"]["weight"] == 0.0
    assert last["loss"]["info_nce"]["weight"] == 0.5
    assert list(first["prep"]["teachers"]) == ["hybrid"]
    assert last["prep"]["teachers"] == {"file": {"kind": "run_file", "path": "x"}}
    # Cells share nothing that one could change in another.
    first["prep"]["llm"]["backend"] = "changed"
    assert cells[1].config["prep"]["llm"]["backend"] == "vllm"
    # All else is the base experiment.
    assert last["optim"] == base.get_config().to_dict()["optim"]


def test_a_sample_can_be_an_axis():
    sizes = {"all": {}, "small": {"sample.num_passages": 300}}
    whole, small = cells_of(make({"size": sizes}))
    assert whole.sample["num_passages"] is None
    assert small.sample == whole.sample | {"num_passages": 300}
    assert "sample" not in small.config


@pytest.mark.parametrize(
    ("axes", "messages"),
    [
        (
            {"loss": {"x": {"loss.info_nce.wieght": 1}, "y": {"los.a": 1}}},
            ["axes.loss.x: the experiment has no key loss.info_nce.wieght", "no key los.a"],
        ),
        (
            {"loss": {"x": {"loss.info_nce": 3}}},
            ["axes.loss.x: loss.info_nce is a section, and cannot become 3"],
        ),
        ({"a": {"x": {"seed": 3}}}, ["axes.a.x: seed is set by config.study.seeds"]),
        ({"a": {"x": {"seed.x": 3}}}, ["no key seed.x"]),
        (
            {"a": {"x": {"loss.info_nce": {}}}, "b": {"y": {"loss.info_nce.weight": 1}}},
            ["the axes a and b both set loss.info_nce.weight"],
        ),
        ({"a": {"x/y": {}}}, ["'x/y' is also the name of a folder"]),
        ({"a": {"..": {}}}, ["'..' is also the name of a folder"]),
        ({"a": {"x--y": {}}}, ["'x--y' is also the name of a folder"]),
        ({"a": {}}, ["config.study.axes.a has no value"]),
    ],
)
def test_bad_axes(axes, messages):
    with pytest.raises(UserError) as caught:
        cells_of(make(axes))
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seeds": ()}, "config.study.seeds=()"),
        ({"seeds": (1, 1)}, "config.study.seeds=(1, 1)"),
        ({"seeds": (-1,)}, "config.study.seeds=(-1,)"),
        ({"baseline": {"loss": "none"}}, "the axes are loss: kl, a_sum"),
        ({"baseline": {"other": "kl"}}, "config.study.baseline"),
        ({"max_parallel": 0}, "config.study.max_parallel=0"),
        ({"memory_per_run": 0.0}, "config.study.memory_per_run=0.0"),
        ({"metric": "ndcg@10"}, "config.study.metric='ndcg@10': wanted nDCG, R, RR, AP, P or"),
        ({"metric": "nDCG"}, "config.study.metric='nDCG'"),
        ({"metric": "R@0"}, "config.study.metric='R@0'"),
    ],
)
def test_bad_keys(keys, message):
    with pytest.raises(UserError, match=r"config\.study") as caught:
        cells_of(make({"loss": LOSS}, **keys))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["nDCG@1", "R@100", "RR@10", "AP@100", "P@5", "Success@9999"])
def test_metrics_that_are_taken_can_be_scored(name):
    study = read_study(make({"loss": LOSS}, metric=name).to_dict())
    scores = score_run(
        {"q": {"d": 1, "e": 0}}, {"q": {"e": 2.0, "d": 1.0}}, metrics=(study.metric,)
    )
    worst = {"nDCG@1": 0.0, "RR@10": 0.5, "AP@100": 0.5, "P@5": 0.2}
    assert scores.mean[name] == pytest.approx(worst.get(name, 1.0))


def test_what_is_no_study_is_told():
    with pytest.raises(UserError, match="no section study: it is an experiment"):
        read_study(base.get_config().to_dict())
    config = make({"loss": LOSS}).to_dict()
    config["study"]["sedes"] = (0,)
    with pytest.raises(UserError, match=r"config\.study\.sedes.*did you mean seeds"):
        read_study(config)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("arg", ["", "cpu", "smoke"])
def test_studies_that_come_with_ldx(name, arg, tmp_path):
    """Every key they set is there, and smoke needs nothing that is not local."""
    config = importlib.import_module(f"configs.studies.{name}").get_config(arg)
    study = read_study(config.to_dict())
    cells = expand(study)
    check_samples(cells)
    assert study.name == name
    assert study.question.endswith("?")
    assert study.size == (arg or "full")
    assert study.caveat.startswith("Smoke size: ") == (arg == "smoke")
    for cell in cells:
        check_config(open_workspace(ConfigDict(cell.config), tmp_path))
        assert make_objective(cell.config["loss"]).terms
    if arg == "smoke":
        assert len(cells) == 2
        assert {cell.config["data"]["root"] for cell in cells} == {""}
        assert {cell.config["prep"]["collection"] for cell in cells} == {"api_docs"}
    else:
        assert {cell.config["data"]["root"] for cell in cells} - {""} == set(study.roots)
    with pytest.raises(ValueError, match="there are cpu and smoke"):
        importlib.import_module(f"configs.studies.{name}").get_config("large")


@pytest.mark.parametrize(
    ("name", "cpu", "smoke"),
    [
        ("graded", "hundred questions", "Grades are made up"),
        ("synthetic_vs_human", "Synthetic queries are cut", "No training query here is written by"),
    ],
)
def test_the_caveat_of_a_smoke_study_is_of_what_it_has(name, cpu, smoke):
    make_config = importlib.import_module(f"configs.studies.{name}").get_config
    caveats = {arg: make_config(arg).study.caveat for arg in ("cpu", "smoke")}
    assert cpu in caveats["cpu"]
    assert cpu not in caveats["smoke"]
    assert smoke in caveats["smoke"]


def test_there_are_seven_studies():
    assert len(STUDIES) == 7


# The losses of graded have the same lists; of corpus_size see the next test; query_tower asks what
# more queries and epochs give, and both mean more steps.
@pytest.mark.parametrize("name", sorted(set(STUDIES) - {"corpus_size", "graded", "query_tower"}))
@pytest.mark.parametrize("arg", ["", "cpu"])
def test_cells_differ_in_nothing_that_follows_from_the_number_of_lists(name, arg):
    """Nor do they stop early: all take as many steps, as large, at the same rate."""
    config = importlib.import_module(f"configs.studies.{name}").get_config(arg)
    schedules = set()
    for num_lists, cell in zip(range(500, 50_000, 450), expand(read_study(config.to_dict()))):  # noqa: B905
        settings = resolve(cell.config, num_lists)
        train, optim = settings.train, settings.optim
        assert train.stop_on is None
        schedules.add((settings.data.batch_size, train.num_steps, train.eval_every, optim))
    assert len(schedules) == 1


def test_a_corpus_of_fewer_lists_has_smaller_batches():
    """In the full size; as the recipe says."""
    cells = expand(
        read_study(importlib.import_module("configs.studies.corpus_size").get_config().to_dict())
    )
    sizes = [resolve(cells[0].config, num_lists).data.batch_size for num_lists in (20_000, 2_000)]
    assert sizes == [2528, 256]


def test_the_query_types_of_the_study_are_those_of_data_prep():
    """Configs import nothing of data_prep, so they name the types themselves."""
    assert query_types.WRITTEN_TYPES == LLM_TYPES
    assert query_types.CUT_OUT_TYPES == EXTRACTIVE_TYPES
