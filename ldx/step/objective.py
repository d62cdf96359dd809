"""What training minimises: the weighted sum of the config's losses over one global batch.

Shapes: Q lists (queries), L list entries, P distinct passages, D dimensions.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ldx.common.errors import UserError
from ldx.common.rules import check_values, number
from ldx.data.lists import Lists
from ldx.losses import LOSSES, Batch, Loss, slot_counts
from ldx.losses.loss import LossSettings
from ldx.models.pooling import normalize


@dataclasses.dataclass(frozen=True)
class Matryoshka:
    """The section `config.loss.matryoshka`: losses of the embeddings' first dimensions.

    What is minimised is the sum over d of weight_d times the losses of the first d dimensions.
    Source: Kusupati et al. (arXiv 2205.13147); sentence-transformers' MatryoshkaLoss is the same
    where the student's embeddings have unit norm (it normalises in any case).

    Attributes:
      dims: the numbers of dimensions; the student's own size is one of them if it is to be trained.
      weights: the weight of each of `dims`; None: 1.
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
        if self.weights and len(self.weights) != len(self.dims):
            raise UserError(
                f"config.loss.matryoshka.weights={self.weights}: wanted one for each of "
                f"dims={self.dims}, or None"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """A loss of the sum, and the values of its settings."""

    loss: Loss
    weight: float
    settings: LossSettings

    @property
    def name(self) -> str:
        """The name of the loss."""
        return self.loss.name


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A weighted sum of losses: call it with embeddings and lists.

    Attributes:
      terms: the losses that have a weight.
      matryoshka: the dimensions that they are computed for.
      unit_norm: whether embeddings that were cut get norm 1 again.
    """

    terms: tuple[Term, ...]
    matryoshka: Matryoshka = Matryoshka()
    unit_norm: bool = True

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
        for factor, batch in self._cuts(_batch(queries, passages, lists)):
            for term in self.terms:
                value = factor * term.loss(batch, term.settings)
                values[term.name] = values[term.name] + value if term.name in values else value
        total = jnp.asarray(self.total(values))
        return total, values | {"total": total}

    def map_passages(self, passages: jax.Array, kernel: jax.Array) -> jax.Array:
        """Stored embeddings [P, D] after a passage map [D, D], as `Towers.map_passages` does it."""
        mapped = passages + jnp.matmul(passages, kernel, precision=jax.lax.Precision.HIGHEST)
        return normalize(mapped) if self.unit_norm else mapped

    def total(self, values: Mapping[str, Any]) -> Any:
        """The number that is minimised, given the value of each loss."""
        return sum(term.weight * values[term.name] for term in self.terms)

    def num_lists(self, lists: Lists) -> dict[str, jax.Array]:
        """How many lists each loss is the mean of."""
        return {
            term.name: jnp.sum(term.loss.has_loss(lists.labels, lists.where, term.settings))
            for term in self.terms
        }

    def _cuts(self, batch: Batch) -> list[tuple[float, Batch]]:
        """The factor and the batch of each number of dimensions."""
        dims = self.matryoshka.dims
        if not dims:
            return [(1.0, batch)]
        # Padding must not reach the norms: 0 * NaN is NaN in their gradients.
        queries, passages = batch.query_embeddings, batch.passage_embeddings
        counts = slot_counts(batch.list_index, batch.where, passages.shape[0])
        queries = jnp.where(jnp.any(batch.where, axis=1, keepdims=True), queries, 0)
        passages = jnp.where(counts[:, None] > 0, passages, 0)
        weights = self.matryoshka.weights or (1.0,) * len(dims)
        finish = normalize if self.unit_norm else jnp.asarray
        return [
            (
                weight,
                batch._replace(
                    query_embeddings=finish(queries[:, :dim]),
                    passage_embeddings=finish(passages[:, :dim]),
                ),
            )
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
        return [t.name for t in self.terms if t.loss.learns_from(t.settings) == targets]

    @property
    def comparing_losses(self) -> list[str]:
        """The names of the losses that learn nothing from lists of one entry."""
        return [t.name for t in self.terms if t.loss.compares_entries(t.settings)]

    @property
    def unit_score_losses(self) -> list[str]:
        """The names of the losses that need teacher scores in [0, 1]."""
        return [t.name for t in self.terms if t.loss.needs_unit_scores(t.settings)]

    @property
    def uses_guide(self) -> bool:
        """Whether a loss uses a guide model, if there is one."""
        return any(term.loss.uses_guide for term in self.terms)


def _batch(queries: jax.Array, passages: jax.Array, lists: Lists) -> Batch:
    return Batch(
        queries,
        passages,
        lists.list_index,
        lists.teacher_scores,
        lists.labels,
        lists.where,
        lists.guide_queries,
        lists.guide_passages,
    )


def make_objective(config: Mapping[str, Mapping[str, Any]]) -> Objective:
    """The objective of `config.loss`: {name: {"weight": w, setting: value, ...}}.

    A setting that is left out has the default of the loss's description (`ldx.losses.LOSSES`).
    Beside the losses there may be `matryoshka`, with the fields of `Matryoshka`.

    Raises:
      UserError: an unknown loss or setting, a value it cannot have, or no loss with a weight.
    """
    sections = {name: section for name, section in config.items() if name != "matryoshka"}
    terms = [_term(name, section) for name, section in sections.items()]
    terms = [term for term in terms if term.weight]
    if not terms:
        raise UserError("config.loss: no loss has a weight; set one such as listwise_kl.weight=1.0")
    for term in terms:
        if term.loss.package and importlib.util.find_spec(term.loss.package) is None:
            raise UserError(
                f"config.loss.{term.name}: it needs the package {term.loss.package}; "
                f"pip install '.[{term.loss.package}]'"
            )
    return Objective(tuple(terms), _matryoshka(config.get("matryoshka") or {}))


WEIGHT = number(least=0)


def _term(name: str, section: Mapping[str, Any]) -> Term:
    if name not in LOSSES:
        raise UserError(f"config.loss.{name}: no such loss; there are {', '.join(LOSSES)}")
    loss = LOSSES[name]
    settings = {key: value for key, value in section.items() if key != "weight"}
    unknown = sorted(set(settings) - set(loss.settings))
    if unknown:
        raise UserError(
            f"config.loss.{name}.{unknown[0]}: {name} has no such setting; "
            f"it has weight, {', '.join(sorted(loss.settings))}"
        )
    if "weight" not in section:
        raise UserError(f"config.loss.{name}.weight is missing")
    if not WEIGHT.allows(section["weight"]):
        raise UserError(f"config.loss.{name}.weight={section['weight']!r}: wanted {WEIGHT.wanted}")
    for key, value in settings.items():
        if not loss.settings[key].accepts(value):
            raise UserError(f"config.loss.{name}.{key}={value}: {loss.settings[key].requirement}")
    return Term(loss, float(section["weight"]), loss.with_defaults(settings))


def _matryoshka(section: Mapping[str, Any]) -> Matryoshka:
    fields = [field.name for field in dataclasses.fields(Matryoshka)]
    for key in section:
        if key not in fields:
            raise UserError(
                f"config.loss.matryoshka.{key}: no such setting; it has {', '.join(fields)}"
            )
    check_values({"loss": {"matryoshka": section}})
    return Matryoshka(**{key: tuple(value) if value else None for key, value in section.items()})
