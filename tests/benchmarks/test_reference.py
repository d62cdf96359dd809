"""The PyTorch reference: equal to CADET's numbers, to plain autograd, and to its own counts."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.benchmarks import reference_losses
from tests.benchmarks.lists import synthetic_lists
from tests.benchmarks.reference import (
    Settings,
    embed,
    load_bert,
    losses_and_gradients,
    microbatch_tokens,
    padded_tokens,
    reference_step,
)

SMALL = Settings(query_max_length=20, passage_max_length=60, lists_per_microbatch=2)


@pytest.fixture(scope="module")
def bert(tiny_bert):
    return load_bert(tiny_bert).double()


@pytest.fixture(scope="module")
def lists():
    """Five lists of four over nine passages: repeated ones, and a micro-batch that is not full."""
    return synthetic_lists(9, 5, 4, mean_length=30, seed=3, vocab_size=60)


def sums_by_document(gradients, doc_ids):
    """[number of documents, D] of gradients [Q, L, D]."""
    _, index = np.unique(doc_ids, return_inverse=True)
    sums = np.zeros((index.max() + 1, gradients.shape[-1]))
    np.add.at(sums, index.ravel(), gradients.reshape(-1, gradients.shape[-1]))
    return sums


@pytest.mark.golden
@pytest.mark.parametrize("loss_chunk", [3, 512])
@pytest.mark.parametrize("number", range(4))
def test_losses_and_gradients_are_those_of_cadet(golden_dir, number, loss_chunk, monkeypatch):
    monkeypatch.setattr(reference_losses, "LOSS_CHUNK", loss_chunk)
    with np.load(golden_dir / f"cadet_{number}.npz") as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    names = ("temperature", "student_temperature", "teacher_temperature", "false_negative_ratio")
    temperatures = {name: float(golden[name]) for name in names}
    tensors = [torch.from_numpy(golden[n]) for n in ("query", "passage", "doc_ids")]
    teacher = torch.from_numpy(golden["teacher_scores"])
    found = {}
    for weight in (0.0, 1.0):
        settings = Settings(contrastive_weight=weight, **temperatures)
        losses, *gradients = losses_and_gradients(*tensors, teacher, settings)
        found[weight] = [x.numpy() for x in gradients]
        np.testing.assert_allclose(losses["listwise_kl"], golden["listwise_loss"], rtol=1e-6)
        np.testing.assert_allclose(losses["info_nce"], golden["contrastive_loss"], rtol=1e-6)
        total = golden["listwise_loss"] + weight * golden["contrastive_loss"]
        np.testing.assert_allclose(losses["loss"], total, rtol=1e-6)
    contrastive = [both - one for both, one in zip(found[1.0], found[0.0], strict=True)]
    for name, (query, passage) in (("listwise", found[0.0]), ("contrastive", contrastive)):
        expected = golden[f"{name}_grad_query"]
        np.testing.assert_allclose(query, expected, atol=1e-6 * abs(expected).max(), rtol=0)
        expected = sums_by_document(golden[f"{name}_grad_passage"], golden["doc_ids"])
        passage = sums_by_document(passage, golden["doc_ids"])
        np.testing.assert_allclose(passage, expected, atol=1e-6 * abs(expected).max(), rtol=0)


def loss_by_slots(queries, slots, rows, teacher, settings):
    """CADET's loss, slot by slot, by the words of its definition."""
    total = 0.0
    num_queries, list_size = rows.shape
    for i in range(num_queries):
        log_student = torch.log_softmax(slots[i] @ queries[i] / settings.student_temperature, 0)
        target = torch.softmax(teacher[i] / settings.teacher_temperature, 0)
        total = total + (target * (target.log() - log_student)).sum()
        threshold = settings.false_negative_ratio * teacher[i, 0]
        negatives = {int(rows[i, l]) for l in range(list_size) if teacher[i, l] > threshold}
        kept = [
            slots[j, l]
            for j in range(num_queries)
            for l in range(list_size)
            if (j, l) == (i, 0) or int(rows[j, l]) not in negatives | {int(rows[i, 0])}
        ]
        logits = torch.stack(kept) @ queries[i] / settings.temperature
        positive = slots[i, 0] @ queries[i] / settings.temperature
        info_nce = torch.logsumexp(logits, 0) - positive
        total = total + settings.contrastive_weight * info_nce
    return total / num_queries


def test_two_passes_give_the_gradient_of_one(bert, lists):
    numbers = np.array([4, 0, 2, 3, 1])
    result = reference_step(bert, lists, numbers, SMALL, device="cpu")
    rows = lists.rows[numbers]
    queries = lists.padded_queries(lists.query[numbers], SMALL.query_max_length)
    passages = lists.padded_passages(rows.ravel(), SMALL.passage_max_length)
    queries, slots = (embed(bert, *map(torch.from_numpy, x)) for x in (queries, passages))
    teacher = torch.from_numpy(lists.teacher_scores[numbers]).double()
    loss = loss_by_slots(queries, slots.unflatten(0, (5, 4)), rows, teacher, SMALL)
    parameters = dict(bert.named_parameters())
    expected = torch.autograd.grad(loss, list(parameters.values()))
    assert result.losses["loss"] == pytest.approx(loss.item(), rel=1e-9)
    assert result.gradients.keys() == parameters.keys()
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(result.gradients[name], gradient, rtol=1e-8, atol=1e-9)


def test_no_gradient_stays_behind(bert, lists):
    first, second = (reference_step(bert, lists, np.arange(4), SMALL, device="cpu") for _ in "ab")
    assert first.losses == second.losses
    for name, gradient in first.gradients.items():
        torch.testing.assert_close(gradient, second.gradients[name], rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in bert.parameters())


def test_tokens_are_those_that_the_model_sees(bert, lists):
    numbers, seen, real = np.arange(5), [], []

    def look(module, arguments, named):
        if torch.is_grad_enabled():
            seen.append(named["input_ids"].numel())
            real.append(int(named["attention_mask"].sum()))

    handle = bert.register_forward_pre_hook(look, with_kwargs=True)
    result = reference_step(bert, lists, numbers, SMALL, device="cpu")
    handle.remove()
    assert result.padded_tokens == sum(seen) == padded_tokens(lists, numbers, SMALL)
    assert result.real_tokens == sum(real)
    assert result.num_microbatches == result.num_timed_microbatches == 3
    assert not result.is_sample


def test_a_sample_is_scaled_up_and_says_so(bert, lists):
    result = reference_step(bert, lists, np.arange(5), SMALL, device="cpu", sample_microbatches=2)
    assert result.is_sample
    assert (result.num_microbatches, result.num_timed_microbatches) == (3, 2)
    assert result.padded_tokens == padded_tokens(lists, np.arange(5), SMALL)
    assert result.gradients is None
    assert result.losses == {}
    assert min(result.seconds.values()) > 0
    assert result.total_seconds == sum(result.seconds.values())


def test_padding_is_counted_by_the_formula():
    lists = synthetic_lists(100, 6, 3, mean_length=100, seed=0)
    padded, real = microbatch_tokens(lists, np.arange(6), Settings(lists_per_microbatch=4))
    passages = np.minimum(lists.passages.lengths[lists.rows] + 2, 512)
    queries = np.minimum(lists.queries.lengths + 2, 64)
    expected = [
        12 * passages[:4].max() + 4 * queries[:4].max(),
        6 * passages[4:].max() + 2 * queries[4:].max(),
    ]
    assert padded.tolist() == expected
    assert real.sum() == passages.sum() + queries.sum()


def test_half_precision_stays_near(bert, lists):
    model = load_bert(bert.name_or_path)
    exact = reference_step(model, lists, np.arange(5), SMALL, device="cpu")
    half = reference_step(model, lists, np.arange(5), SMALL, device="cpu", dtype=torch.bfloat16)
    assert half.losses != exact.losses
    assert half.losses["listwise_kl"] == pytest.approx(exact.losses["listwise_kl"], rel=0.05)
    assert all(gradient.dtype == torch.float32 for gradient in half.gradients.values())
