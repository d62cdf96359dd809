"""What training minimises: the weighted sum of the config's losses over one global batch.

Shapes: Q lists (queries), L list entries, P distinct passages, D dimensions.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ldx import losses
from ldx.data.lists import Lists
from ldx.errors import UserError

Loss = Callable[..., jax.Array]


def _listwise_kl(queries: jax.Array, passages: jax.Array, lists: Lists, **settings: Any):
    scores = losses.list_scores(queries, passages, lists.list_index, lists.where)
    return losses.listwise_kl(scores, lists.teacher_scores, where=lists.where, **settings)


def _info_nce(queries: jax.Array, passages: jax.Array, lists: Lists, **settings: Any):
    return losses.info_nce(
        queries,
        passages,
        lists.list_index,
        lists.teacher_scores,
        where=lists.where,
        labels=lists.labels,
        **settings,
    )


# name of the config key -> (the loss, how a batch becomes its arguments)
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "listwise_kl": (losses.listwise_kl, _listwise_kl),
    "info_nce": (losses.info_nce, _info_nce),
}
BATCH_ARGUMENTS = {"where", "labels", "reduce_fn"}


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A weighted sum of losses: call it with embeddings and lists."""

    terms: tuple[tuple[str, float, Mapping[str, Any]], ...]  # name, weight, settings

    def __call__(
        self, queries: jax.Array, passages: jax.Array, lists: Lists
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The total of a batch and each loss before its weight.

        Args:
          queries: embeddings [Q, D].
          passages: embeddings of the distinct passages [P, D].
          lists: the lists of the batch.
        """
        values = {
            n: LOSSES[n][1](queries, passages, lists, **kwargs) for n, _, kwargs in self.terms
        }
        total = jnp.asarray(sum(weight * values[name] for name, weight, _ in self.terms))
        return total, values | {"total": total}

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss learns from teacher scores."""
        return any(name == "listwise_kl" for name, _, _ in self.terms)

    @property
    def needs_unit_scores(self) -> bool:
        """Whether a mask compares ratios of teacher scores, which are meant for [0, 1]."""
        return any(
            name == "info_nce" and kwargs.get("false_negative_ratio", 0.6) is not None
            for name, _, kwargs in self.terms
        )


def make_objective(config: Mapping[str, Mapping[str, Any]]) -> Objective:
    """The objective of `config.loss`: {name: {"weight": w, setting: value, ...}}.

    Raises:
      UserError: an unknown loss or setting, or no loss with a weight.
    """
    terms = []
    for name, section in config.items():
        if name not in LOSSES:
            raise UserError(f"config.loss.{name}: no such loss; there are {', '.join(LOSSES)}")
        parameters = inspect.signature(LOSSES[name][0]).parameters.values()
        allowed = {p.name for p in parameters if p.kind == p.KEYWORD_ONLY} - BATCH_ARGUMENTS
        settings = {key: value for key, value in section.items() if key != "weight"}
        unknown = sorted(set(settings) - allowed)
        if unknown:
            raise UserError(
                f"config.loss.{name}.{unknown[0]}: {name} has no such setting; "
                f"it has weight, {', '.join(sorted(allowed))}"
            )
        if "weight" not in section:
            raise UserError(f"config.loss.{name}.weight is missing")
        for key, value in settings.items():
            if "temperature" in key and not value > 0:
                raise UserError(f"config.loss.{name}.{key}={value}: a temperature is over 0")
            if key == "block_size" and value is not None and value < 1:
                raise UserError(f"config.loss.{name}.{key}={value}: wanted at least 1, or None")
        if section["weight"]:
            terms.append((name, float(section["weight"]), settings))
    if not terms:
        raise UserError("config.loss: no loss has a weight; set one such as listwise_kl.weight=1.0")
    return Objective(tuple(terms))
