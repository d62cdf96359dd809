"""How cost grows: the counts are the planner's and the reference's own, devices agree."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from ldx.data.plan import BatchPlanner
from tests.benchmarks import scaling
from tests.benchmarks.lists import save, synthetic_lists
from tests.benchmarks.reference import padded_tokens
from tests.benchmarks.scaling import PooledTexts, device_rows, plan_rows, stored, with_texts
from tests.benchmarks.scaling_curve import SETTINGS, count, curve, shapes_on_accelerator
from tests.benchmarks.scaling_plot import draw
from tests.benchmarks.step_cases import Setup, StepCase
from tests.benchmarks.step_folders import random_bert
from tests.benchmarks.step_ours import batch_size, list_table

PNG = b"\x89PNG"


def test_tokens_are_those_of_planner_and_reference():
    lists = synthetic_lists(50, 24, 5, mean_length=60, seed=0)
    numbers = np.arange(24)
    planner = BatchPlanner(
        lists.passages,
        lists.queries,
        lists,
        query_max_length=SETTINGS.query_max_length,
        passage_max_length=SETTINGS.passage_max_length,
        shapes=shapes_on_accelerator(lists, 24),
        size=batch_size(lists, 24),
    )
    plan, point = (
        planner(list_table(lists.query, lists.rows, lists.teacher_scores), numbers),
        count(lists, 24),
    )
    assert point.our_tokens == plan.num_padded_tokens
    assert point.reference_tokens == padded_tokens(lists, numbers, SETTINGS)
    assert (point.num_slots, point.num_distinct) == (120, plan.num_distinct_passages)
    assert point.ratio == pytest.approx(point.padding * point.deduplication)


def test_gains_are_those_of_several_batches():
    lists = synthetic_lists(50, 25, 5, mean_length=60, seed=0)
    assert count(lists, 12).num_slots == 2 * 12 * 5
    assert count(lists, 1).num_slots == 8 * 5


def test_repeated_passages_pay_and_others_do_not():
    points = curve(corpus_sizes=(40, 200_000), batch_sizes=(64,))
    small, large = points
    assert small.deduplication > 5
    assert large.deduplication == pytest.approx(1, abs=0.05)
    row = small.row()
    assert row["ratio"] == pytest.approx(small.ratio)
    assert row["padding"] * row["deduplication"] == pytest.approx(row["ratio"])
    assert row["case"] == "40 passages, Q=64"


def test_the_curve_is_drawn(tmp_path):
    path = tmp_path / "curve.png"
    draw(curve(corpus_sizes=(30, 300), batch_sizes=(4, 8)), path)
    assert path.read_bytes().startswith(PNG)


def test_pooled_texts_are_views_of_their_lengths():
    pool = np.arange(2000, dtype=np.int32)
    texts = PooledTexts(np.array([3, 500]), pool)
    assert [len(texts[i]) for i in range(2)] == [3, 500]
    assert np.shares_memory(texts[1], pool)


def test_plans_are_timed():
    rows = plan_rows(corpora=(100,), batch_sizes=(4, 8), list_sizes=(3,))
    assert [row["case"] for row in rows] == ["100 passages, Q=4, L=3", "100 passages, Q=8, L=3"]
    assert all(row["ours"] > 0 and row["reference"] > 0 for row in rows)


@pytest.mark.slow  # the whole benchmark; what it computes is tested besides
def test_devices_share_the_tokens_and_agree(tmp_path):
    smaller = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32}
    sizes = scaling.TINY_BERT | smaller
    case = StepCase("toy", "tiny", 4, passage_max_length=16)
    lists = synthetic_lists(40, 4, 5, 20, seed=0, vocab_size=sizes["vocab_size"])
    save(tmp_path / "lists.npz", with_texts(lists, stored))
    folder = random_bert(tmp_path / "model", sizes)
    setup = Setup(case, str(tmp_path / "lists.npz"), str(folder), query_max_length=16)
    rows = device_rows(setup, 4, counts=(1, 2), repeats=1)
    tokens = [row for row in rows if row["unit"] == "tokens"]
    assert [row["num_devices"] for row in tokens] == [1, 2]
    assert tokens[0]["ratio"] == 1
    assert tokens[1]["ours"] == tokens[1]["padded_tokens"] / 2
    assert max(row["loss_difference"] for row in rows) <= scaling.LOSS_TOLERANCE


def test_the_command_writes_all_three_parts(tmp_path, monkeypatch):
    points = curve(corpus_sizes=(30, 300), batch_sizes=(4, 8))
    plans = plan_rows(corpora=(100,), batch_sizes=(4,), list_sizes=(3,))
    monkeypatch.setattr(scaling, "curve", lambda: points)
    monkeypatch.setattr(scaling, "plan_rows", lambda: plans)
    monkeypatch.setattr(scaling, "make_devices_setup", lambda folder: (None, 4))
    monkeypatch.setattr(scaling, "device_rows", lambda *_: [points[0].row()])
    scaling.main([f"--json={tmp_path / 'rows.json'}", f"--plot={tmp_path / 'curve.png'}"])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["benchmark"] for row in rows} == {"padded tokens", "plan"}
    assert len(rows) == len(points) + len(plans) + 1
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)
