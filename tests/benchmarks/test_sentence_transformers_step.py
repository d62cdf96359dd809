"""The losses of sentence-transformers: fed as here, they are ldx's losses."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from ldx.losses import info_nce, listwise_kl
from tests.benchmarks.lists import synthetic_lists
from tests.benchmarks.reference import Settings, embed, load_bert, reference_step
from tests.benchmarks.sentence_transformers_step import (
    columns,
    contrastive_step,
    distill_labels,
    distill_loss,
    distill_step,
    load_sentence_transformer,
    losses,
)

TEMPERATURES = {"student_temperature": 0.05, "teacher_temperature": 0.3}
SETTINGS = Settings(query_max_length=20, passage_max_length=60, contrastive_weight=0.0)
NUM_QUERIES, LIST_SIZE = 6, 4


@pytest.fixture(scope="module")
def model(tiny_bert):
    return load_sentence_transformer(tiny_bert)


@pytest.fixture(scope="module")
def lists():
    """Lists that share no passage."""
    lists = synthetic_lists(24, NUM_QUERIES, LIST_SIZE, mean_length=30, seed=5, vocab_size=60)
    rows = np.random.default_rng(0).permutation(24).reshape(NUM_QUERIES, LIST_SIZE)
    lists.rows[:] = rows
    return lists


@pytest.fixture(scope="module")
def embeddings(tiny_bert, lists):
    """[Q, D] of the queries, [P, D] of the passages."""
    bert = load_bert(tiny_bert)
    queries = lists.padded_queries(lists.query, SETTINGS.query_max_length)
    passages = lists.padded_passages(np.arange(24), SETTINGS.passage_max_length)
    with torch.no_grad():
        return [embed(bert, *map(torch.from_numpy, x)).numpy() for x in (queries, passages)]


class Given(torch.nn.Module):
    """Embeds nothing: the features hold the embeddings."""

    def forward(self, features):
        return features


def test_distillation_is_listwise_kl_with_the_temperatures_fed_in():
    rng = np.random.default_rng(0)
    queries, passages = rng.normal(size=(5, 8)), rng.normal(size=(5, 7, 8))
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    passages /= np.linalg.norm(passages, axis=-1, keepdims=True)
    teacher = rng.uniform(size=(5, 7))
    scores = np.einsum("qd,qld->ql", queries, passages)
    expected = float(listwise_kl(jnp.asarray(scores), jnp.asarray(teacher), **TEMPERATURES))
    texts = [queries, *passages.transpose(1, 0, 2)]
    features = [{"sentence_embedding": torch.from_numpy(x)} for x in texts]
    labels = torch.from_numpy(teacher)
    loss = distill_loss(Given(), Settings())(features, distill_labels(labels, Settings()))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # With the library's own two temperatures: the same times the square of the student's.
    own = losses.DistillKLDivLoss(Given(), student_temperature=0.05, teacher_temperature=0.3)
    assert own(features, labels).item() == pytest.approx(0.05**2 * expected, rel=1e-5)


def test_distill_step_is_listwise_kl(model, lists, embeddings, tiny_bert):
    numbers = np.array([3, 0, 5, 1])
    result = distill_step(model, lists, numbers, SETTINGS)
    queries, passages = embeddings
    scores = np.einsum("qd,qld->ql", queries[numbers], passages[lists.rows[numbers]])
    expected = float(listwise_kl(scores, lists.teacher_scores[numbers], **TEMPERATURES))
    assert result.loss == pytest.approx(expected, rel=1e-4)
    reference = reference_step(load_bert(tiny_bert), lists, numbers, SETTINGS, device="cpu")
    check_gradients(result.gradients, reference.gradients)


@pytest.mark.parametrize("mini_batch_size", [2, 64])
def test_contrastive_step_is_info_nce_without_a_mask(model, lists, embeddings, mini_batch_size):
    numbers = np.arange(NUM_QUERIES)
    result = contrastive_step(model, lists, numbers, SETTINGS, mini_batch_size=mini_batch_size)
    queries, passages = embeddings
    expected = info_nce(queries, passages, lists.rows, None, temperature=0.01)
    assert result.loss == pytest.approx(float(expected), rel=1e-4)


def test_contrastive_gradients_are_those_of_the_reference(model, lists, tiny_bert):
    # A ratio that masks nothing, and weights that leave InfoNCE alone.
    settings = Settings(
        query_max_length=20,
        passage_max_length=60,
        contrastive_weight=1e6,
        false_negative_ratio=1e6,
    )
    numbers = np.arange(NUM_QUERIES)
    result = contrastive_step(model, lists, numbers, settings, mini_batch_size=3)
    reference = reference_step(load_bert(tiny_bert), lists, numbers, settings, device="cpu")
    check_gradients(result.gradients, {n: g / 1e6 for n, g in reference.gradients.items()})


def check_gradients(found, expected):
    """Each to 1e-3 of its largest entry (or of the largest of all, for one that should be 0)."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        size = max(float(gradient.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-3 * size)


def test_tokens_are_counted(model, lists):
    numbers = np.arange(NUM_QUERIES)
    features = columns(lists, numbers, SETTINGS)
    assert len(features) == 1 + LIST_SIZE
    shapes = [feature["input_ids"].shape for feature in features]
    cached = contrastive_step(model, lists, numbers, SETTINGS, mini_batch_size=64)
    assert cached.padded_tokens == sum(rows * width for rows, width in shapes)
    # All passages at once, to the longest of them, or column by column: the versions differ.
    longest = NUM_QUERIES * (shapes[0][1] + LIST_SIZE * max(width for _, width in shapes[1:]))
    distilled = distill_step(model, lists, numbers, SETTINGS)
    assert distilled.padded_tokens in (longest, cached.padded_tokens)


def test_half_precision_leaves_the_model_as_it_was(model, lists):
    numbers = np.arange(NUM_QUERIES)
    exact = distill_step(model, lists, numbers, SETTINGS)
    half = distill_step(model, lists, numbers, SETTINGS, dtype=torch.bfloat16)
    assert half.loss != exact.loss
    assert half.loss == pytest.approx(exact.loss, rel=0.05)
    assert distill_step(model, lists, numbers, SETTINGS).loss == exact.loss
