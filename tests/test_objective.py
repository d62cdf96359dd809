"""The objective is the weighted sum of the config's losses, and refuses what it does not know."""

import re

import numpy as np
import pytest

from ldx.data.lists import Lists
from ldx.errors import UserError
from ldx.losses import info_nce, list_scores, listwise_kl
from ldx.objective import make_objective

CONFIG = {
    "listwise_kl": {"weight": 1.0, "student_temperature": 0.1, "teacher_temperature": 0.2},
    "info_nce": {"weight": 0.1, "temperature": 0.05, "false_negative_ratio": None},
}


def test_weighted_sum():
    rng = np.random.default_rng(0)
    q, p = rng.normal(size=(4, 8)).astype("f"), rng.normal(size=(9, 8)).astype("f")
    index = np.stack([rng.permutation(9)[:5] for _ in range(4)])
    scores = rng.uniform(size=(4, 5)).astype("f")
    labels = np.full((4, 5), -1)
    labels[1, 2] = 1
    where = rng.uniform(size=(4, 5)) < 0.8
    where[:, 0] = True
    total, values = make_objective(CONFIG)(q, p, Lists(index, scores, labels, where))
    kl = listwise_kl(
        list_scores(q, p, index), scores, where=where,
        student_temperature=0.1, teacher_temperature=0.2,
    )  # fmt: skip
    contrastive = info_nce(
        q, p, index, None, temperature=0.05, where=where, labels=labels
    )  # fmt: skip
    np.testing.assert_allclose(values["listwise_kl"], kl, rtol=1e-6)
    np.testing.assert_allclose(values["info_nce"], contrastive, rtol=1e-6)
    np.testing.assert_allclose(total, kl + 0.1 * contrastive, rtol=1e-6)
    assert values["total"] == total


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kl": {"weight": 1.0}}, "config.loss.kl: no such loss; there are listwise_kl, info_nce"),
        ({"info_nce": {"weight": 1.0, "tau": 1}}, "config.loss.info_nce.tau"),
        ({"info_nce": {"temperature": 1}}, "config.loss.info_nce.weight is missing"),
        ({"info_nce": {"weight": 0.0}}, "no loss has a weight"),
        ({"info_nce": {"weight": 1.0, "temperature": 0}}, "temperature=0"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_objective(config)
