"""Random batches of lists, and every loss as a function of one: what the tests of losses share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldx import losses
from ldx.data.lists import Lists
from ldx.step.objective import make_objective

DIM = 6


def make_batch(seed=0, num_queries=5, list_size=4, num_passages=9, dim=DIM, dtype=np.float32):
    rng = np.random.default_rng(seed)

    def unit(*shape):
        x = rng.normal(size=shape)
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)

    lists = [rng.permutation(num_passages)[:list_size] for _ in range(num_queries)]
    return {
        "query_embeddings": unit(num_queries, dim),
        "passage_embeddings": unit(num_passages, dim),
        "list_index": np.stack(lists),
        "teacher_scores": -np.sort(-rng.uniform(size=(num_queries, list_size))).astype(dtype),
        "where": np.ones((num_queries, list_size), bool),
    }


def _scores(batch):
    names = ("query_embeddings", "passage_embeddings", "list_index", "where")
    return losses.list_scores(*(batch[name] for name in names))


def _grades(batch):
    """Levels 0 to 3, several entries of one list on the same."""
    return jnp.floor(jnp.asarray(batch["teacher_scores"]) * 4)


def _on_lists(loss, targets=lambda batch: batch["teacher_scores"], **settings):
    def of_batch(batch, **reduce):
        scores = _scores(batch)
        masks = {"where": batch["where"], "weights": batch.get("weights")}
        return loss(scores, targets(batch), **masks, **settings, **reduce)

    return of_batch


def _info_nce(batch, **settings):
    return losses.info_nce(**batch, temperature=0.05, false_negative_ratio=0.6, **settings)


def _guided(batch, **settings):
    """The student's own scores, and a little more, as the guide's."""
    queries, passages = batch["query_embeddings"], batch["passage_embeddings"]
    guide = {"guide_query_embeddings": queries, "guide_passage_embeddings": passages}
    return _info_nce(batch, block_size=4, guide_margin=0.1, **guide, **settings)


def _published_wasserstein(batch):
    names = ("query_embeddings", "passage_embeddings", "list_index", "where")
    return losses.wasserstein(
        losses.slot_scores(*(batch[name] for name in names)),
        losses.slot_labels(_grades(batch)),
        where=losses.slot_where(jnp.asarray(batch["where"])),
        weights=batch.get("weights"),
        temperature=0.2,
    )


def _objective(**section):
    def of_batch(batch):
        lists = Lists(
            batch["list_index"],
            batch["teacher_scores"],
            np.full(batch["where"].shape, -1),
            batch["where"],
        )
        return make_objective(section)(
            batch["query_embeddings"], batch["passage_embeddings"], lists
        )[0]

    return of_batch


PER_LIST = {
    "listwise_kl": _on_lists(losses.listwise_kl, student_temperature=0.05, teacher_temperature=0.3),
    "margin_mse": _on_lists(losses.margin_mse, student_temperature=0.5),
    "rank_net": _on_lists(losses.rank_net, _grades, temperature=0.05),
    "list_mle": _on_lists(losses.list_mle, temperature=0.05),
    "list_mle of grades": _on_lists(losses.list_mle, _grades, temperature=0.05),
    "lambda_loss": _on_lists(losses.lambda_loss, _grades, temperature=0.05),
    "approx_ndcg": _on_lists(losses.approx_ndcg, _grades, temperature=0.05),
    "info_nce": _info_nce,
    "info_nce in blocks": functools.partial(_info_nce, block_size=3),
    "info_nce with a guide": _guided,
}
PER_BATCH = {
    "wasserstein": _published_wasserstein,
    "list_wasserstein": _on_lists(losses.list_wasserstein, _grades, temperature=0.2),
    "matryoshka": _objective(
        listwise_kl={"weight": 1.0},
        info_nce={"weight": 0.5, "temperature": 0.1},
        matryoshka={"dims": (DIM, 3), "weights": (1.0, 0.3)},
    ),
}
LOSSES = PER_LIST | PER_BATCH


class Outcome(NamedTuple):
    """What a loss makes of a batch."""

    value: Any
    gradient: Any  # by the names of the embeddings of queries and of passages
    each: Any  # one loss a list; None of `PER_BATCH`


@functools.cache
def _program(name):
    loss = LOSSES[name]

    def outcome(embeddings, rest):
        value, gradient = jax.value_and_grad(lambda x: loss(rest | x))(embeddings)
        each = loss(rest | embeddings, reduce_fn=None) if name in PER_LIST else None
        return Outcome(value, gradient, each)

    return jax.jit(outcome)


def outcome(name, batch):
    """Of a loss of `LOSSES`: one program for all tests of batches of one shape."""
    embeddings = {k: jnp.asarray(batch[k]) for k in ("query_embeddings", "passage_embeddings")}
    return _program(name)(embeddings, batch)
