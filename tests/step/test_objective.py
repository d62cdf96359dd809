"""The objective is the weighted sum of the config's losses, and refuses what it does not know."""

import functools
import re

import jax
import numpy as np
import pytest

from configs.base import get_config
from ldx.common.errors import UserError
from ldx.data.lists import Lists
from ldx.losses import (
    LOSSES,
    info_nce,
    list_scores,
    list_wasserstein,
    listwise_kl,
    rank_net,
    slot_labels,
    slot_scores,
    wasserstein,
)
from ldx.step.list_check import ListCheck
from ldx.step.objective import make_objective
from tests.step.step_problems import Problem

CADET = {"listwise_kl": 1.0, "info_nce": 0.1}
KL = {"listwise_kl": {"weight": 1.0}}
CONFIG = {
    "listwise_kl": {"weight": 1.0, "student_temperature": 0.1, "teacher_temperature": 0.2},
    "info_nce": {"weight": 0.1, "temperature": 0.05, "false_negative_ratio": None},
}


def compute(section, q, p, lists):
    """The total and the values of the objective of a section, compiled as the step does."""
    return jax.jit(make_objective(section))(q, p, lists)


def make_graded():
    """Embeddings, and lists with teacher scores and with labels that disagree with them."""
    rng = np.random.default_rng(1)
    q, p = rng.normal(size=(4, 8)).astype("f"), rng.normal(size=(9, 8)).astype("f")
    index = np.stack([rng.permutation(9)[:5] for _ in range(4)])
    scores = rng.uniform(size=(4, 5)).astype("f")
    labels = rng.integers(-1, 4, size=(4, 5))
    assert (labels == -1).any()
    return q, p, Lists(index, scores, labels, np.ones((4, 5), bool))


def test_weighted_sum():
    rng = np.random.default_rng(0)
    q, p = rng.normal(size=(4, 8)).astype("f"), rng.normal(size=(9, 8)).astype("f")
    index = np.stack([rng.permutation(9)[:5] for _ in range(4)])
    scores = rng.uniform(size=(4, 5)).astype("f")
    labels = np.full((4, 5), -1)
    labels[1, 2] = 1
    where = rng.uniform(size=(4, 5)) < 0.8
    where[:, 0] = True
    total, values = compute(CONFIG, q, p, Lists(index, scores, labels, where))

    @jax.jit
    def expected(q, p):
        kl = listwise_kl(
            list_scores(q, p, index), scores, where=where,
            student_temperature=0.1, teacher_temperature=0.2,
        )  # fmt: skip
        return kl, info_nce(q, p, index, None, temperature=0.05, where=where, labels=labels)

    kl, contrastive = expected(q, p)
    np.testing.assert_allclose(values["listwise_kl"], kl, rtol=1e-6)
    np.testing.assert_allclose(values["info_nce"], contrastive, rtol=1e-6)
    np.testing.assert_allclose(total, kl + 0.1 * contrastive, rtol=1e-6)
    assert values["total"] == total


def test_targets_are_teacher_scores_or_labels():
    """Unjudged entries have grade 0."""
    q, p, lists = make_graded()
    student = np.einsum("qd,qld->ql", q, p[lists.list_index])
    grades = np.maximum(lists.labels, 0)
    loss = jax.jit(functools.partial(rank_net, temperature=0.3))
    for targets, values in (("teacher_scores", lists.teacher_scores), ("labels", grades)):
        section = {"weight": 1.0, "temperature": 0.3, "targets": targets}
        total, _ = compute({"rank_net": section}, q, p, lists)
        np.testing.assert_allclose(total, loss(student, values.astype("f")), rtol=1e-6)


def test_forms_of_wasserstein():
    q, p, lists = make_graded()
    index, grades = lists.list_index, np.maximum(lists.labels, 0)

    @jax.jit
    def by_form(q, p):
        return {
            "list": list_wasserstein(list_scores(q, p, index), grades, temperature=0.5),
            "batch": wasserstein(slot_scores(q, p, index), slot_labels(grades), temperature=0.5),
        }

    expected = by_form(q, p)
    assert abs(expected["list"] - expected["batch"]) > 0.01
    for form, value in expected.items():
        section = {"weight": 2.0, "temperature": 0.5, "form": form}
        total, _ = compute({"wasserstein": section}, q, p, lists)
        np.testing.assert_allclose(total, 2 * value, rtol=1e-5)
    assert make_objective({"wasserstein": {"weight": 1.0}}).learn_from("labels") == ["wasserstein"]


def test_relevant_labels_are_no_negatives():
    q, p, lists = make_graded()
    lists.labels[:, 0] = 4, -1, 4, 4  # every list has a positive at every level
    values, loss = [], jax.jit(functools.partial(info_nce, temperature=9.0))
    for level in (1, 2, 4):
        section = {"weight": 1.0, "temperature": 9.0, "false_negative_ratio": None}
        section["relevance_level"] = level
        total, _ = compute({"info_nce": section}, q, p, lists)
        labels = np.where(lists.labels >= level, 1, np.minimum(lists.labels, 0))
        expected = loss(q, p, lists.list_index, None, labels=labels)
        np.testing.assert_allclose(total, expected, rtol=1e-6)
        values.append(float(total))
    assert values == sorted(set(values))


@pytest.mark.parametrize(
    ("section", "teacher", "unit"),
    [
        ({"listwise_kl": {}}, ["listwise_kl"], False),
        ({"listwise_kl": {"targets": "labels"}}, [], False),
        ({"info_nce": {}}, [], True),
        ({"info_nce": {"false_negative_ratio": None}}, [], False),
        ({"wasserstein": {}}, [], False),
        ({"approx_ndcg": {}, "list_mle": {}}, ["approx_ndcg", "list_mle"], True),
        ({"lambda_loss": {"targets": "labels"}}, [], False),
    ],
)
def test_what_lists_must_have(section, teacher, unit):
    objective = make_objective({name: s | {"weight": 1.0} for name, s in section.items()})
    assert objective.learn_from("teacher_scores") == teacher
    assert bool(objective.unit_score_losses) == unit


@pytest.mark.parametrize("unit_norm", [True, False])
def test_matryoshka_cuts_and_normalises(unit_norm):
    q, p, lists = make_graded()
    config = CONFIG | {"matryoshka": {"dims": (8, 3), "weights": (1.0, 0.5)}}
    objective = make_objective(config).of_student(unit_norm=unit_norm, embedding_size=8)
    total, values = jax.jit(objective)(q, p, lists)
    expected = 0.0
    for dim, weight in ((8, 1.0), (3, 0.5)):
        cut = q[:, :dim], p[:, :dim]
        if unit_norm:
            cut = tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in cut)
        expected += weight * float(compute(CONFIG, *cut, lists)[0])
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(total, values["listwise_kl"] + 0.1 * values["info_nce"], rtol=1e-6)
    with pytest.raises(UserError, match=re.escape("matryoshka.dims=(8, 3): the student's")):
        objective.of_student(unit_norm=unit_norm, embedding_size=7)


def test_every_loss_is_in_the_config():
    """With its defaults; only CADET's two have a weight, and no other is computed."""
    config = get_config().loss.to_dict()
    assert set(config) == {*LOSSES, "matryoshka"}
    objective = make_objective(config)
    assert {term.name: term.weight for term in objective.terms} == CADET
    _, values = jax.jit(objective)(*make_graded())
    assert set(values) == {"listwise_kl", "info_nce", "total"}
    for name in LOSSES:
        config[name]["weight"] = 1.0
    _, values = compute(config, *make_graded())
    assert set(values) == {*LOSSES, "total"}
    assert all(np.isfinite(value) for value in values.values())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"list_mle": {}}, "list 'list-0': no teacher scores, but list_mle would learn from them"),
        (
            {"wasserstein": {}, "list_mle": {"targets": "labels"}},
            "list 'list-0': no label, but wasserstein and list_mle would learn from them",
        ),
    ],
)
def test_lists_without_targets_are_refused(loss, message):
    """The message names the list and the losses; lists that have what is learned from pass."""
    table = Problem.make(labels=True).table()
    check = ListCheck(make_objective({name: s | {"weight": 1.0} for name, s in loss.items()}))
    table.labels[:, 0] = 2
    check("toy train", table)
    table.labels[0] = -1
    table.has_scores[0] = False
    with pytest.raises(UserError, match=re.escape(message)):
        check("toy train", table)


def test_a_relevance_level_that_no_list_reaches_is_refused():
    table = Problem.make(labels=True).table()
    table.labels[:, 0] = 1
    for level, is_refused in ((1, False), (2, True)):
        info_nce = {"weight": 1.0, "relevance_level": level}
        check = ListCheck(make_objective({"info_nce": info_nce}))
        if not is_refused:
            check("toy train", table)
            continue
        with pytest.raises(UserError, match=r"relevance_level=2: no toy train list has a positive"):
            check("toy train", table)
    table.labels[3, 0] = -1  # a teacher's
    check("toy train", table)


def test_without_rax_its_losses_are_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    make_objective(KL)
    with pytest.raises(UserError, match=re.escape("config.loss.rank_net: it needs")):
        make_objective({"rank_net": {"weight": 1.0}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kl": {"weight": 1.0}}, "config.loss.kl: no such loss; there are listwise_kl, info_nce"),
        ({"info_nce": {"weight": 1.0, "tau": 1}}, "config.loss.info_nce.tau"),
        ({"info_nce": {"temperature": 1}}, "config.loss.info_nce.weight is missing"),
        ({"info_nce": {"weight": 0.0}}, "no loss has a weight"),
        ({"info_nce": {"weight": 1.0, "temperature": 0}}, "temperature=0"),
        (
            {"info_nce": {"weight": -1.0}},
            "config.loss.info_nce.weight=-1.0: wanted a number of at least 0",
        ),
        ({"info_nce": {"weight": 1.0, "relevance_level": 0}}, "info_nce.relevance_level=0"),
        ({"info_nce": {"weight": 1.0, "targets": "labels"}}, "config.loss.info_nce.targets"),
        ({"rank_net": {"weight": 0.0, "targets": "grades"}}, "rank_net.targets=grades: wanted t"),
        ({"wasserstein": {"weight": 1.0, "form": "lists"}}, "wasserstein.form=lists: wanted list"),
        (KL | {"matryoshka": {"dim": (4,)}}, "config.loss.matryoshka.dim: no such setting"),
        (KL | {"matryoshka": {"dims": (4, 0)}}, "config.loss.matryoshka.dims=(4, 0)"),
        (KL | {"matryoshka": {"dims": 4}}, "dims=4: wanted whole numbers in brackets or None"),
        ({"info_nce": {"weight": "1"}}, "config.loss.info_nce.weight='1': wanted a number"),
        ({"info_nce": {"weight": 1.0, "temperature": "low"}}, "a temperature is a number over 0"),
        ({"info_nce": {"weight": 1.0, "block_size": 0.5}}, "wanted a whole number of at least 1"),
        (KL | {"matryoshka": {"weights": (1.0,)}}, "without matryoshka.dims"),
        (KL | {"matryoshka": {"dims": (4, 2), "weights": (1.0,)}}, "wanted one for each of dims"),
        (
            KL | {"matryoshka": {"dims": (4,), "weights": (0.0,)}},
            "wanted numbers over 0 in brackets",
        ),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_objective(config)


def test_lists_of_one_entry_are_for_info_nce_alone():
    """And for the Wasserstein loss over the batch, which compares them with each other."""
    table = Problem.make(list_size=1, labels=True).table()
    table.labels[:] = 1
    for loss, is_refused in (
        ({"info_nce": {}}, False),
        ({"wasserstein": {"form": "batch"}}, False),
        ({"wasserstein": {"form": "list"}}, True),
        ({"info_nce": {}, "listwise_kl": {}}, True),
    ):
        check = ListCheck(make_objective({name: s | {"weight": 1.0} for name, s in loss.items()}))
        if is_refused:
            with pytest.raises(UserError, match=r"toy train lists have one entry .*list_size=1"):
                check("toy train", table)
        else:
            check("toy train", table)
