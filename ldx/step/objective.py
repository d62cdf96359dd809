"""What training minimises: the weighted sum of the config's losses over one global batch.

Shapes: Q lists (queries), L list entries, P distinct passages, D dimensions.
"""

import dataclasses
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ldx import losses
from ldx.common.errors import UserError
from ldx.data.lists import Lists
from ldx.models.pooling import normalize

Loss = Callable[..., jax.Array]

TARGETS = ("teacher_scores", "labels")


def _on_lists(loss: Loss) -> Loss:
    """A loss of scores and targets [Q, L] as one of embeddings and lists."""

    def on_lists(
        queries: jax.Array,
        passages: jax.Array,
        lists: Lists,
        *,
        targets: str = "teacher_scores",
        **settings: Any,
    ) -> jax.Array:
        scores = losses.list_scores(queries, passages, lists.list_index, lists.where)
        values = lists.teacher_scores if targets == "teacher_scores" else _grades(lists)
        return loss(scores, values, where=lists.where, **settings)

    return on_lists


def _info_nce(queries: jax.Array, passages: jax.Array, lists: Lists, **settings: Any) -> jax.Array:
    return losses.info_nce(
        queries,
        passages,
        lists.list_index,
        lists.teacher_scores,
        where=lists.where,
        labels=lists.labels,
        guide_query_embeddings=lists.guide_queries,
        guide_passage_embeddings=lists.guide_passages,
        **settings,
    )


def _wasserstein(
    queries: jax.Array, passages: jax.Array, lists: Lists, *, form: str = "list", **settings: Any
) -> jax.Array:
    index, where, labels = lists.list_index, lists.where, _grades(lists)
    if form == "list":
        scores = losses.list_scores(queries, passages, index, where)
        return losses.list_wasserstein(scores, labels, where=where, **settings)
    return losses.wasserstein(
        losses.slot_scores(queries, passages, index, where),
        losses.slot_labels(labels),
        where=losses.slot_where(where),
        **settings,
    )


def _grades(lists: Lists) -> jax.Array:
    """The labels, unjudged entries as 0."""
    return jnp.maximum(lists.labels, 0)


# name of the config key -> (the loss, how a batch becomes its arguments)
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "listwise_kl": (losses.listwise_kl, _on_lists(losses.listwise_kl)),
    "info_nce": (losses.info_nce, _info_nce),
    "margin_mse": (losses.margin_mse, _on_lists(losses.margin_mse)),
    "rank_net": (losses.rank_net, _on_lists(losses.rank_net)),
    "list_mle": (losses.list_mle, _on_lists(losses.list_mle)),
    "lambda_loss": (losses.lambda_loss, _on_lists(losses.lambda_loss)),
    "approx_ndcg": (losses.approx_ndcg, _on_lists(losses.approx_ndcg)),
    "wasserstein": (losses.wasserstein, _wasserstein),
}
BATCH_ARGUMENTS = {
    "where",
    "labels",
    "reduce_fn",
    "guide_query_embeddings",
    "guide_passage_embeddings",
}
BY_RAX = {"rank_net", "list_mle", "lambda_loss", "approx_ndcg"}
BY_GAIN = {"lambda_loss", "approx_ndcg"}  # 2^target - 1, so targets are not to be negative


@dataclasses.dataclass(frozen=True)
class Matryoshka:
    """The losses also of the embeddings' first dimensions; the section `config.loss.matryoshka`.

    The sum over d of weight_d times the losses of the first d dimensions. Source: Kusupati et al.
    (arXiv 2205.13147); sentence-transformers' MatryoshkaLoss is the same where the student's
    embeddings have unit norm (it normalises in any case).

    Attributes:
      dims: how many dimensions; the student's own size is one of them if it is to be trained.
      weights: of each of `dims`; None: 1.
    """

    dims: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.dims:
            if self.weights:
                raise UserError(
                    f"config.loss.matryoshka.weights={self.weights} without matryoshka.dims"
                )
            return
        if any(not isinstance(d, int) or d < 1 for d in self.dims):
            raise UserError(
                f"config.loss.matryoshka.dims={self.dims}: wanted whole numbers of at least 1"
            )
        if self.weights and len(self.weights) != len(self.dims):
            raise UserError(
                f"config.loss.matryoshka.weights={self.weights}: wanted one for each of "
                f"dims={self.dims}, or None"
            )
        if self.weights and any(not weight > 0 for weight in self.weights):
            raise UserError(f"config.loss.matryoshka.weights={self.weights}: a weight is over 0")


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A weighted sum of losses: call it with embeddings and lists."""

    terms: tuple[tuple[str, float, Mapping[str, Any]], ...]  # name, weight, settings
    matryoshka: Matryoshka = Matryoshka()
    unit_norm: bool = True  # whether embeddings that were cut get norm 1 again

    def __call__(
        self, queries: jax.Array, passages: jax.Array, lists: Lists
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The total of a batch and each loss before its weight.

        Args:
          queries: embeddings [Q, D].
          passages: embeddings of the distinct passages [P, D].
          lists: the lists of the batch.
        """
        values: dict[str, jax.Array] = {}
        for factor, q, p in self._cuts(queries, passages, lists):
            for name, _, settings in self.terms:
                value = factor * LOSSES[name][1](q, p, lists, **settings)
                values[name] = values[name] + value if name in values else value
        total = jnp.asarray(self.total(values))
        return total, values | {"total": total}

    def total(self, values: Mapping[str, Any]) -> Any:
        """What is minimised, of the value of each loss."""
        return sum(weight * values[name] for name, weight, _ in self.terms)

    def num_lists(self, lists: Lists) -> dict[str, jax.Array]:
        """How many lists each loss is the mean of."""
        return {
            name: jnp.sum(
                losses.has_positive(lists.labels, settings.get("relevance_level", 1), lists.where)
                if name == "info_nce"
                else jnp.any(lists.where, axis=1)
            )
            for name, _, settings in self.terms
        }

    def _cuts(
        self, queries: jax.Array, passages: jax.Array, lists: Lists
    ) -> list[tuple[float, jax.Array, jax.Array]]:
        """Factor, query and passage embeddings of each number of dimensions."""
        dims = self.matryoshka.dims
        if not dims:
            return [(1.0, queries, passages)]
        # Padding must not reach the norms: 0 * NaN is NaN in their gradients.
        counts = losses.slot_counts(lists.list_index, lists.where, passages.shape[0])
        queries = jnp.where(jnp.any(lists.where, axis=1, keepdims=True), queries, 0)
        passages = jnp.where(counts[:, None] > 0, passages, 0)
        weights = self.matryoshka.weights or (1.0,) * len(dims)
        finish = normalize if self.unit_norm else jnp.asarray
        return [
            (weight, finish(queries[:, :dim]), finish(passages[:, :dim]))
            for dim, weight in zip(dims, weights, strict=True)
        ]

    def of_student(self, *, unit_norm: bool, embedding_size: int) -> "Objective":
        """The objective for a student's embeddings.

        Raises:
          UserError: Matryoshka dimensions that the student does not have.
        """
        dims = self.matryoshka.dims
        if dims and max(dims) > embedding_size:
            raise UserError(
                f"config.loss.matryoshka.dims={dims}: the student's embeddings have "
                f"{embedding_size} dimensions"
            )
        return dataclasses.replace(self, unit_norm=unit_norm)

    def learn_from(self, targets: str) -> list[str]:
        """The names of the losses that learn from "teacher_scores", or from "labels"."""
        return [name for name, _, settings in self.terms if _targets(name, settings) == targets]

    @property
    def comparing_losses(self) -> list[str]:
        """The names of the losses that learn nothing from lists of one entry."""
        return [
            name
            for name, _, settings in self.terms
            if name != "info_nce" and settings.get("form") != "batch"
        ]

    @property
    def relevance_level(self) -> int | None:
        """The least label of a positive of info_nce; None where that loss is not used."""
        levels = [s.get("relevance_level", 1) for name, _, s in self.terms if name == "info_nce"]
        return levels[0] if levels else None

    @property
    def uses_guide(self) -> bool:
        """Whether a loss uses a guide model, if there is one."""
        return any(name == "info_nce" for name, _, _ in self.terms)

    @property
    def needs_unit_scores(self) -> bool:
        """Whether a loss has a mask or gains that are meant for teacher scores in [0, 1]."""
        return any(
            (name == "info_nce" and settings.get("false_negative_ratio", 0.6) is not None)
            or (name in BY_GAIN and _targets(name, settings) == "teacher_scores")
            for name, _, settings in self.terms
        )


def _targets(name: str, settings: Mapping[str, Any]) -> str | None:
    """What a loss learns from; info_nce needs only the positive."""
    default = {"info_nce": None, "wasserstein": "labels"}.get(name, "teacher_scores")
    return settings.get("targets", default)


def make_objective(config: Mapping[str, Mapping[str, Any]]) -> Objective:
    """The objective of `config.loss`: {name: {"weight": w, setting: value, ...}}.

    Beside the losses there may be `matryoshka`, with the fields of `Matryoshka`.

    Raises:
      UserError: an unknown loss or setting, a value it cannot have, or no loss with a weight.
    """
    terms = []
    for name, section in config.items():
        if name == "matryoshka":
            continue
        if name not in LOSSES:
            raise UserError(f"config.loss.{name}: no such loss; there are {', '.join(LOSSES)}")
        settings = {key: value for key, value in section.items() if key != "weight"}
        _check_keys(name, settings)
        if "weight" not in section:
            raise UserError(f"config.loss.{name}.weight is missing")
        if not section["weight"] >= 0:
            raise UserError(f"config.loss.{name}.weight={section['weight']}: wanted at least 0")
        _check_values(name, settings)
        if section["weight"]:
            terms.append((name, float(section["weight"]), settings))
    if not terms:
        raise UserError("config.loss: no loss has a weight; set one such as listwise_kl.weight=1.0")
    _check_rax([name for name, _, _ in terms])
    return Objective(tuple(terms), _matryoshka(config.get("matryoshka") or {}))


def _check_keys(name: str, settings: Mapping[str, Any]) -> None:
    parameters = {
        parameter.name
        for function in LOSSES[name]
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind == parameter.KEYWORD_ONLY
    }
    allowed = parameters - BATCH_ARGUMENTS
    unknown = sorted(set(settings) - allowed)
    if unknown:
        raise UserError(
            f"config.loss.{name}.{unknown[0]}: {name} has no such setting; "
            f"it has weight, {', '.join(sorted(allowed))}"
        )


def _check_values(name: str, settings: Mapping[str, Any]) -> None:
    choices = {
        "targets": TARGETS,
        "form": ("list", "batch"),
        "guide_margin_strategy": ("absolute", "relative"),
    }
    for key, value in settings.items():
        got = f"config.loss.{name}.{key}={value}"
        if "temperature" in key and not value > 0:
            raise UserError(f"{got}: a temperature is over 0")
        if key == "block_size" and value is not None and value < 1:
            raise UserError(f"{got}: wanted at least 1, or None")
        if key == "relevance_level" and value < 1:
            raise UserError(f"{got}: wanted at least 1")
        if key in choices and value not in choices[key]:
            raise UserError(f"{got}: wanted {' or '.join(choices[key])}")


def _check_rax(names: list[str]) -> None:
    missing = [name for name in names if name in BY_RAX]
    if missing and importlib.util.find_spec("rax") is None:
        raise UserError(
            f"config.loss.{missing[0]}: it needs the package rax; pip install 'ldx[rax]'"
        )


def _matryoshka(section: Mapping[str, Any]) -> Matryoshka:
    fields = [field.name for field in dataclasses.fields(Matryoshka)]
    for key in section:
        if key not in fields:
            raise UserError(
                f"config.loss.matryoshka.{key}: no such setting; it has {', '.join(fields)}"
            )
    return Matryoshka(**{key: tuple(value) if value else None for key, value in section.items()})
