"""The step benchmark on a tiny model: what the sides compute, and what a row says of it."""

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from ldx.models.student import load_student
from ldx.training import parts
from tests.benchmarks import make_lists, step
from tests.benchmarks.lists import load
from tests.benchmarks.reference import Settings, padded_tokens
from tests.benchmarks.step_cases import (
    CONTRASTIVE,
    CPU_CASES,
    DISTILL,
    REFERENCE,
    SideResult,
    batch_numbers,
    checked_numbers,
    disjoint_lists,
    forward_flops,
    gpu_cases,
)
from tests.benchmarks.step_folders import first_layers, random_bert
from tests.benchmarks.step_ours import OBJECTIVES, OurSide, _ahead_in_threads, text_lengths
from tests.benchmarks.step_report import NotEqual, check_equal, make_row, remarks, shown
from tests.benchmarks.step_theirs import make_side
from tests.benchmarks.step_toy import CASE, PLENTY, SIZES, make_setup, write_lists


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_bert(tmp_path_factory.mktemp("models") / "tiny", SIZES)


@pytest.fixture(scope="module")
def lists_folder(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def setup(folder, lists_folder):
    return make_setup(folder, lists_folder)


@pytest.fixture(scope="module")
def ours(setup):
    return OurSide(setup, activations=0)


@pytest.fixture(scope="module")
def kept(setup):
    """The same with all activations kept."""
    return OurSide(setup, activations=PLENTY)


@pytest.fixture(scope="module")
def reference(setup):
    return make_side(setup)


@pytest.mark.parametrize("rival", [DISTILL, CONTRASTIVE])
def test_sides_compute_the_same(folder, lists_folder, rival):
    setup = make_setup(folder, lists_folder, rival=rival)
    numbers = checked_numbers(setup.case, load(setup.lists))
    assert 1 < len(numbers) <= 6
    ours, theirs = OurSide(setup, activations=PLENTY), make_side(setup)
    (our_result,), (result,) = ours.step(numbers), theirs.step(numbers)
    gradients = ours.gradients(), theirs.gradients()
    differences = check_equal("toy", our_result, result, *gradients)
    assert differences["gradient_difference"] < 1e-4


@pytest.mark.parametrize("activations", ["ours", "kept"])
def test_only_equal_sides_are_compared(activations, request, reference):
    ours, numbers = request.getfixturevalue(activations), batch_numbers(12, 6)
    (our_result,), (result,) = ours.step(numbers), reference.step(numbers)
    gradients = ours.gradients(), reference.gradients()
    differences = check_equal("toy", our_result, result, *gradients)
    assert differences["gradient_difference"] < 1e-4
    wrong = dataclasses.replace(our_result, loss=our_result.loss * 1.001)
    with pytest.raises(NotEqual, match=r"toy: not the same result.*relative difference 1.0e-03"):
        check_equal("toy", wrong, result, *gradients)
    name, gradient = next(iter(gradients[0].items()))
    with pytest.raises(NotEqual, match="gradients differ by"):
        check_equal("toy", our_result, result, gradients[0] | {name: gradient + 1}, gradients[1])


def test_the_weights_stay(ours, setup):
    numbers = batch_numbers(12, 6)
    first, second = ours.step(numbers, 2)
    assert first.loss == second.loss
    assert min(first.notes["input_wait"], first.notes["embed_seconds"]) >= 0


def test_tokens_and_work_are_counted(ours, reference, setup):
    numbers = batch_numbers(12, 6)
    lists = load(setup.lists)
    (mine,), (theirs,) = ours.step(numbers), reference.step(numbers)
    settings = Settings(query_max_length=16, passage_max_length=24, lists_per_microbatch=2)
    assert theirs.padded_tokens == padded_tokens(lists, numbers, settings)
    plan = ours.plan(numbers)
    assert mine.padded_tokens == sum(batch.token_ids.size for batch in plan.token_batches)
    passages, queries = lists.passage_lengths(24), lists.query_lengths(16)
    slots = np.concatenate([passages[lists.rows[numbers]].ravel(), queries[lists.query[numbers]]])
    distinct = np.concatenate(
        [passages[np.unique(lists.rows[numbers])], queries[np.unique(lists.query[numbers])]]
    )
    assert theirs.real_tokens == slots.sum()
    assert mine.real_tokens == distinct.sum()
    assert theirs.flops == 4 * forward_flops(slots, 1, 32, 64)
    # Ours counts the empty texts that fill up the last micro-batch, of two tokens each.
    filled = [batch.mask.sum(axis=1) for batch in plan.token_batches]
    assert mine.flops == pytest.approx(4 * forward_flops(np.concatenate(filled), 1, 32, 64))
    assert theirs.peak_bytes > 0
    assert mine.peak_bytes > 0


def test_kept_activations_save_a_forward_pass(ours, kept):
    numbers = batch_numbers(12, 6)
    (again,), (once,) = ours.step(numbers), kept.step(numbers)
    assert (again.notes["kept_microbatches"], once.notes["kept_microbatches"]) == (0, 1)
    assert once.flops == pytest.approx(0.75 * again.flops)


def test_a_sample_of_the_reference_has_no_loss(reference):
    numbers = batch_numbers(12, 6)
    assert reference.num_microbatches(numbers) == 3
    (result,) = reference.step(numbers, 2)
    assert result.loss is None
    assert (result.notes["timed_microbatches"], result.notes["microbatches"]) == (2, 3)


def test_flops_are_those_of_the_formula():
    # One layer, D = 2, width 3: weights 4·4 + 2·6 = 28; texts of 1 and 3 tokens.
    assert forward_flops(np.array([1, 3]), 1, 2, 3) == 2 * 28 * 4 + 4 * 2 * (1 + 9)


def test_lists_that_share_no_passage_are_found():
    rows = np.array([[0, 1], [1, 2], [2, 3], [4, 5], [6, 7]])
    assert disjoint_lists(rows, 3).tolist() == [0, 2, 3]
    assert disjoint_lists(rows, 9).tolist() == [0, 2, 3, 4]


def test_objectives_are_the_references_defaults():
    terms, settings = OBJECTIVES[REFERENCE], Settings()
    kl, info_nce = terms["listwise_kl"], terms["info_nce"]
    assert kl["student_temperature"] == settings.student_temperature
    assert kl["teacher_temperature"] == settings.teacher_temperature
    assert info_nce["weight"] == settings.contrastive_weight
    assert info_nce["temperature"] == settings.temperature
    assert info_nce["false_negative_ratio"] == settings.false_negative_ratio


def test_lengths_are_counted_as_in_training(ours, setup, folder):
    student = load_student(folder, query_max_length=16, passage_max_length=24)
    lists = load(setup.lists)
    source = SimpleNamespace(passages=lists.passages, queries=lists.queries, stored=None)
    expected = parts._text_lengths(student, {"": source}, ours.planner.size)
    assert text_lengths(lists, ours.planner.size, 16, 24).tolist() == expected.tolist()


def test_plans_come_ahead_without_grain():
    assert list(_ahead_in_threads([5, 6, 7])) == [5, 6, 7]


def test_the_first_layers_are_those_of_the_whole(tmp_path):
    folder = random_bert(tmp_path / "whole", SIZES | {"num_hidden_layers": 2})
    short = first_layers(folder, 1, tmp_path / "short")
    whole, part = load_student(folder), load_student(short)
    assert list(part.params["layers"]) == [0]
    kernel = "attention", "query", "kernel"
    for student in (whole, part):
        layer = student.params["layers"][0]
        found = layer[kernel[0]][kernel[1]][kernel[2]]
        np.testing.assert_array_equal(
            found, whole.params["layers"][0]["attention"]["query"]["kernel"]
        )


def make_result(seconds, tokens, **notes):
    return SideResult(seconds, seconds / 2, 1.0, tokens, tokens // 2, 1e6, 2**20, notes)


def test_a_row_says_what_was_measured():
    ours = [make_result(x, 100, input_wait=0.001) for x in (2.0, 1.0, 4.0)]
    theirs = [make_result(x, 300, microbatches=16, timed_microbatches=2) for x in (9.0, 7.0)]
    row = make_row(CASE, 0, ours, theirs, {"checked_lists": 3}, plan_seconds=0.02, matmul_rate=1e7)
    assert row["case"] == "toy tiny Q=6 float32 activations=0"
    assert (row["ours"], row["reference"], row["ratio"]) == (2.0, 8.0, 4.0)
    assert row["padded_token_ratio"] == 3
    assert row["ratio_per_padded_token_ratio"] == pytest.approx(4 / 3)
    assert row["ours_queries_a_second"] == 3
    assert row["ours_real_tokens_a_second"] == 25
    assert row["ours_matmul_share"] == pytest.approx(0.1)
    assert row["plan_share"] == pytest.approx(0.01)
    assert (row["ours_repeats"], row["reference_repeats"]) == (3, 2)
    assert any("2 of 16 micro-batches" in note for note in row["notes"])
    assert any("fewer than 3 steps" in note for note in row["notes"])
    details = {line["benchmark"].strip(): line["ratio"] for line in shown(row)}
    assert details["step"] == 4
    assert details["padded tokens"] == 3
    assert "steps 3 and 2" in remarks(row | {"loss_difference": 0.0, "gradient_difference": 0.0})


@pytest.mark.slow  # the whole benchmark; what it computes is tested besides
def test_cases_run_in_processes_of_their_own(folder, lists_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "model_folder", lambda model, parent: folder)
    monkeypatch.setattr(step, "REPEATS", 1)
    output, deadline = tmp_path / "rows.json", time.monotonic() + 600
    cases = [dataclasses.replace(CASE, num_checked=3)]
    rows = step.run_cases(cases, lists_folder, "cpu", deadline, output)
    assert json.loads(output.read_text()) == rows
    (row,) = (row for row in rows if row["benchmark"] == "step")
    assert (row["checked_lists"], row["ours_repeats"], row["reference_repeats"]) == (3, 1, 1)
    assert row["loss_difference"] < 1e-4
    assert row["machine"]["cores"] > 0
    assert all(row["ratio"] > 1 for row in rows if row["benchmark"] == "float64")


def test_missing_lists_are_made(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(step, "LISTS", tmp_path)
    monkeypatch.setattr(make_lists, "main", made.append)
    (tmp_path / "one.npz").touch()
    assert step.find_lists("elsewhere", {"two"}) == Path("elsewhere")
    assert step.find_lists(None, {"one"}) == tmp_path
    assert made == []
    assert step.find_lists(None, {"one", "two"}) == tmp_path
    assert made == [[f"--output={tmp_path}", "--collections", "two"]]


def test_names_of_cases_differ():
    for cases in (CPU_CASES, gpu_cases()):
        names = [case.row_name(choice) for case in cases for choice in case.activations]
        assert len(set(names)) == len(names)
    assert len([case for case in gpu_cases() if case.num_checked]) == 1


def test_unknown_cases_are_named():
    with pytest.raises(SystemExit, match="nfcorpus 2-layer Q=256 float32"):
        step.main(["--json=x", "--cases=nothing"])
