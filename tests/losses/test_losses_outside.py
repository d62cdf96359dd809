"""Losses equal what rax and sentence-transformers make of the same scores, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ldx.data.lists import Lists
from ldx.losses import (
    approx_ndcg,
    info_nce,
    lambda_loss,
    list_mle,
    listwise_kl,
    margin_mse,
    rank_net,
)
from ldx.models.pooling import normalize
from ldx.step.objective import make_objective

rax = pytest.importorskip("rax")
torch = pytest.importorskip("torch")
st = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
ce = pytest.importorskip("sentence_transformers.cross_encoder.losses")

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def random_scores(num_lists=6, list_size=5, seed=0):
    """Scores, and targets of which no two are equal in a list."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(num_lists, list_size)).astype("f")
    return scores, rng.uniform(size=scores.shape).astype("f")


def check(ours, theirs, scores):
    """Values and gradients by the scores are equal; `theirs` is PyTorch's."""
    value, gradient = jax.jit(jax.value_and_grad(ours))(scores)
    leaf = torch.tensor(scores, requires_grad=True)
    expected = theirs(leaf)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), **CLOSE)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), **CLOSE)


@functools.cache
def value_and_gradient(loss):
    return jax.jit(jax.value_and_grad(loss))


# ---- rax


RAX = {
    "rank_net": (rank_net, rax.pairwise_logistic_loss),
    "list_mle": (list_mle, rax.listmle_loss),
    "lambda_loss": (
        lambda_loss,
        functools.partial(
            rax.pairwise_logistic_loss,
            lambdaweight_fn=functools.partial(rax.dcg2_lambdaweight, normalize=True),
        ),
    ),
    "approx_ndcg": (
        approx_ndcg,
        lambda s, t, **kw: 1 - rax.ndcg_metric(s, t, rank_fn=rax.utils.approx_ranks, **kw),
    ),
}


@pytest.mark.parametrize("name", RAX)
def test_equals_rax(name):
    """Whole lists at once, where rax averages as we do."""
    ours, theirs = RAX[name]
    scores, targets = random_scores()
    ours = functools.partial(ours, temperature=0.5)
    ours_and_gradient = jax.jit(jax.value_and_grad(ours))(scores, targets)
    theirs_of_scores = jax.value_and_grad(lambda s: theirs(s / 0.5, targets))
    value, gradient = jax.jit(theirs_of_scores)(jnp.asarray(scores))
    np.testing.assert_allclose(ours_and_gradient[0], value, **CLOSE)
    np.testing.assert_allclose(ours_and_gradient[1], gradient, **CLOSE)


@pytest.mark.parametrize("name", RAX)
def test_equals_rax_list_by_list(name):
    """Lists of several lengths: each is what rax makes of it without padding, then their mean."""
    ours, theirs = RAX[name]
    scores, targets = random_scores()
    sizes = [5, 3, 3, 1, 0, 3]
    where = np.arange(5)[None] < np.array(sizes)[:, None]
    losses = jax.jit(functools.partial(ours, temperature=1.0, reduce_fn=None))(
        scores, targets, where=where
    )
    theirs = jax.jit(theirs)
    expected = [theirs(s[:n], t[:n]) if n else 0 for s, t, n in
                zip(scores, targets, sizes, strict=True)]  # fmt: skip
    np.testing.assert_allclose(losses, expected, **CLOSE)


@pytest.mark.parametrize("name", ["rank_net", "lambda_loss", "approx_ndcg"])
@pytest.mark.parametrize("width", [5, 1])
def test_weights_are_raxs(name, width):
    """Of entries, or of whole lists."""
    ours, theirs = RAX[name]
    scores, targets = random_scores()
    weights = np.random.default_rng(2).uniform(size=(6, width)).astype("f")
    value, gradient = value_and_gradient(ours)(scores, targets, weights=weights)
    whole = np.broadcast_to(weights, scores.shape)
    expected = value_and_gradient(theirs)(scores, targets, weights=whole)
    np.testing.assert_allclose(value, expected[0], **CLOSE)
    np.testing.assert_allclose(gradient, expected[1], **CLOSE)


@pytest.mark.parametrize("width", [5, 1])
def test_weights_of_listwise_kl_are_raxs(width):
    """The divergence is rax's softmax loss less what the student has no part in."""
    scores, targets = random_scores()
    weights = np.random.default_rng(2).uniform(size=(6, width)).astype("f")
    gradient = jax.jit(jax.grad(listwise_kl))(scores, targets, weights=weights)
    whole = np.broadcast_to(weights, scores.shape)
    theirs = jax.jit(jax.grad(rax.softmax_loss))
    expected = theirs(scores, scipy.special.softmax(targets, axis=1), weights=whole)
    np.testing.assert_allclose(gradient, expected, **CLOSE)


def test_weights_of_info_nce_are_raxs():
    """It is rax's softmax loss whose only relevant item is entry 0, where there is one list."""
    queries, passages = random_embeddings(8, num_lists=1, list_size=5)
    index, rows = as_lists(passages)
    weights = np.random.default_rng(2).uniform(size=(1, 5)).astype("f")
    value = jax.jit(info_nce)(queries, rows, index, None, weights=weights)
    theirs = jax.jit(rax.softmax_loss)
    expected = theirs(queries @ rows.T, np.eye(1, 5, dtype="f"), weights=weights)
    np.testing.assert_allclose(value, expected, **CLOSE)


def test_list_mle_takes_the_likeliest_order_of_equal_targets():
    scores, _ = random_scores(1, 4)
    targets = np.array([[2.0, 1.0, 1.0, 0.0]], "f")
    orders = [np.array([[4.0, 3, 2, 1]]), np.array([[4.0, 2, 3, 1]])]
    theirs = jax.jit(rax.listmle_loss)
    expected = min(float(theirs(scores, order)) for order in orders)
    value = jax.jit(list_mle)(scores, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_without_gain_there_is_no_loss():
    scores, _ = random_scores(2, 3)
    targets = np.array([[0, 0, 0], [1, 0, 0]])
    each = functools.partial(approx_ndcg, temperature=0.05, reduce_fn=None)
    losses = jax.jit(each)(scores, targets)
    assert losses[0] == 0
    assert losses[1] > 0


# ---- sentence-transformers, losses of lists


class OneHot:
    """Embeddings whose dot products are given scores: query i is unit vector i."""

    @staticmethod
    def columns(scores):
        num_lists = scores.shape[0]
        passages = [torch.diag(scores[:, k]) for k in range(scores.shape[1])]
        return [torch.eye(num_lists), *passages]


class Scorer:
    """A cross-encoder that gives the scores it is made with."""

    num_labels, device = 1, "cpu"

    def __init__(self, scores):
        self.scores = scores

    def preprocess(self, pairs, **_):
        numbers = [[int(x) for x in passage.split()] for _, passage in pairs]
        return {"numbers": torch.tensor(numbers)}

    def __call__(self, tokens):
        rows, columns = tokens["numbers"].T
        return {"scores": self.scores[rows, columns]}

    def loss_of(self, make, targets, **settings):
        texts = [[f"{i} {k}" for k in range(len(t))] for i, t in enumerate(targets)]
        labels = [torch.tensor(t) for t in targets]
        return make(self, **settings)([["q"] * len(targets), texts], labels)


def test_equals_their_margin_mse():
    scores, targets = random_scores()
    loss = st.MarginMSELoss(model=None)
    check(
        lambda s: margin_mse(s, targets),
        lambda s: loss.compute_loss_from_embeddings(OneHot.columns(s), torch.tensor(targets)),
        scores,
    )


def test_equals_their_distillation_without_its_factor():
    scores, targets = random_scores()
    loss = st.DistillKLDivLoss(model=None, student_temperature=0.5, teacher_temperature=0.3)
    check(
        lambda s: (
            listwise_kl(s, targets, student_temperature=0.5, teacher_temperature=0.3) * 0.5**2
        ),
        lambda s: loss.compute_loss_from_embeddings(OneHot.columns(s), torch.tensor(targets)),
        scores,
    )


def test_equals_their_list_mle():
    scores, targets = random_scores()
    check(
        lambda s: list_mle(s, targets, temperature=1.0),
        lambda s: Scorer(s).loss_of(ce.ListMLELoss, targets, respect_input_order=False),
        scores,
    )


def test_equals_their_rank_net_in_bits():
    scores, targets = random_scores()
    check(
        lambda s: rank_net(s, targets, temperature=1.0) / np.log(2),
        lambda s: Scorer(s).loss_of(ce.RankNetLoss, targets),
        scores,
    )


def test_equals_their_lambda_loss_in_bits_without_the_length():
    scores, targets = random_scores()
    scheme = ce.NDCGLoss2Scheme()
    check(
        lambda s: lambda_loss(s, targets, temperature=1.0) / np.log(2) / 5,
        lambda s: Scorer(s).loss_of(ce.LambdaLoss, targets, weighting_scheme=scheme),
        scores,
    )


# ---- sentence-transformers, losses of embeddings


@pytest.fixture(scope="module")
def model(tiny_bert):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_bert), device="cpu")


def random_embeddings(dim, seed=0, num_lists=6, list_size=3):
    """Queries [Q, D] and passages [Q, L, D] of unit norm, no passage twice."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape) for shape in
              ((num_lists, dim), (num_lists, list_size, dim))]  # fmt: skip
    return [(x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("f") for x in arrays]


def columns(queries, passages, grad=False):
    """Their form: a list of micro-batches for each column."""
    arrays = [queries, *np.moveaxis(passages, 1, 0)]
    return [[torch.tensor(x, requires_grad=grad)] for x in arrays]


def as_lists(passages):
    index = np.arange(passages.shape[0] * passages.shape[1]).reshape(passages.shape[:2])
    return index, passages.reshape(-1, passages.shape[-1])


@pytest.mark.parametrize(
    ("margin", "strategy", "block_size"),
    [
        (0.0, "absolute", None),
        (0.2, "absolute", 4),
        (-0.3, "absolute", 4),
        (0.5, "relative", None),
    ],
)
def test_a_guide_equals_their_cached_gist(model, margin, strategy, block_size):
    queries, passages = random_embeddings(8)
    guide_queries, guide_passages = random_embeddings(5, seed=1)
    theirs = st.CachedGISTEmbedLoss(
        model, model, temperature=0.1, margin_strategy=strategy, margin=margin,
        contrast_anchors=False, contrast_positives=False,
    )  # fmt: skip
    reps = columns(queries, passages, grad=True)
    expected = theirs.calculate_loss(reps, columns(guide_queries, guide_passages))
    expected.backward()
    index, rows = as_lists(passages)

    def ours(q, p, guided=True):
        guide = {
            "guide_query_embeddings": guide_queries,
            "guide_passage_embeddings": as_lists(guide_passages)[1],
            "guide_margin": margin,
            "guide_margin_strategy": strategy,
        }
        guide = guide if guided else {}
        # They compare by cosine, whatever the norms.
        q, p = normalize(q), normalize(p)
        return info_nce(q, p, index, None, temperature=0.1, block_size=block_size, **guide)

    value, gradient = jax.jit(jax.value_and_grad(ours, argnums=(0, 1)))(queries, rows)
    np.testing.assert_allclose(value, expected.item(), **CLOSE)
    np.testing.assert_allclose(gradient[0], reps[0][0].grad, **CLOSE)
    by_column = [gradient[1][index[:, k]] for k in range(3)]
    for column, rep in zip(by_column, reps[1:], strict=True):
        np.testing.assert_allclose(column, rep[0].grad, **CLOSE)
    unguided = jax.jit(functools.partial(ours, guided=False))(queries, rows)
    assert abs(unguided - value) > 1e-3


def test_info_nce_equals_their_multiple_negatives_ranking():
    queries, passages = random_embeddings(8)
    loss = st.MultipleNegativesRankingLoss(model=None, scale=10.0)
    embeddings = [column[0] for column in columns(queries, passages)]
    expected = loss.compute_loss_from_embeddings(embeddings, labels=None)
    index, rows = as_lists(passages)
    value = jax.jit(functools.partial(info_nce, temperature=0.1))(queries, rows, index, None)
    np.testing.assert_allclose(value, expected.item(), **CLOSE)


def test_matryoshka_equals_theirs(model):
    dims, weights = (32, 16, 5), (1.0, 0.7, 0.2)
    queries, passages = random_embeddings(32)
    inner = st.CachedMultipleNegativesRankingLoss(model, scale=10.0)
    st.MatryoshkaLoss(model, inner, matryoshka_dims=dims, matryoshka_weights=weights)
    reps = columns(queries, passages, grad=True)
    expected = inner.calculate_loss(reps, with_backward=True)
    index, rows = as_lists(passages)
    shape = index.shape
    lists = Lists(index, np.zeros(shape, "f"), np.full(shape, -1), np.ones(shape, bool))
    objective = make_objective(
        {
            "info_nce": {"weight": 1.0, "temperature": 0.1, "false_negative_ratio": None},
            "matryoshka": {"dims": dims, "weights": weights},
        }
    )
    total_and_gradient = jax.value_and_grad(lambda *x: objective(*x, lists)[0], (0, 1))
    value, gradient = jax.jit(total_and_gradient)(queries, rows)
    np.testing.assert_allclose(value, expected.item(), **CLOSE)
    np.testing.assert_allclose(gradient[0], reps[0][0].grad, **CLOSE)
    for k in range(3):
        np.testing.assert_allclose(gradient[1][index[:, k]], reps[1 + k][0].grad, **CLOSE)
