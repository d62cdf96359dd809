"""The description of a loss: what the config and the step know of it.

Shapes as in `ldx.losses`. docs/losses.md says how to add a loss.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldx.common.rules import Rule, number, one_of
from ldx.losses.common import Array, list_scores

LossSettings = Mapping[str, Any]
"""Values by the keys of a loss's section in the config, without its weight."""


class Batch(NamedTuple):
    """The embeddings and lists of a global batch: what a loss may take its arguments from."""

    query_embeddings: Array  # [Q, D]
    passage_embeddings: Array  # [P, D]
    list_index: Array  # [Q, L]
    teacher_scores: Array  # [Q, L]
    labels: Array  # [Q, L], -1 unjudged
    where: Array  # [Q, L]
    guide_query_embeddings: Array | None = None  # [Q, G]
    guide_passage_embeddings: Array | None = None  # [P, G]

    def student_scores(self) -> Array:
        """The student's scores of list entries [Q, L]."""
        return list_scores(
            self.query_embeddings, self.passage_embeddings, self.list_index, self.where
        )

    def targets(self, name: str) -> Array:
        """The teacher scores, or the labels with unjudged entries as 0 [Q, L]."""
        return self.teacher_scores if name == "teacher_scores" else jnp.maximum(self.labels, 0)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key of a loss's section in the config.

    Attributes:
      default: the value where the config leaves the key out.
      accepts: whether a value is a possible one.
      requirement: what an error says of a value that is not possible.
    """

    default: Any
    accepts: Callable[[Any], bool] = lambda value: True
    requirement: str = ""

    @classmethod
    def temperature(cls, default: float) -> "Setting":
        """A temperature, which is over 0."""
        return cls(default, number(over=0).accepts, "a temperature is a number over 0")

    @classmethod
    def of(cls, default: Any, rule: Rule) -> "Setting":
        """A value by a rule of config keys."""
        return cls(default, rule.allows, f"wanted {rule.wanted}")

    @classmethod
    def choice(cls, *names: str) -> "Setting":
        """One of several names; the first is the default."""
        return cls.of(names[0], one_of(*names))

    @classmethod
    def targets(cls) -> "Setting":
        """The choice of what a loss of lists learns from."""
        return cls.choice("teacher_scores", "labels")


@dataclasses.dataclass(frozen=True, eq=False)
class When:
    """The values of settings under which something holds; without any it always does."""

    settings: LossSettings = dataclasses.field(default_factory=dict)

    def holds(self, settings: LossSettings) -> bool:
        """Whether these settings have those values."""
        return all(settings[key] == value for key, value in self.settings.items())


def loss_of_lists(
    function: Callable[..., jax.Array], batch: Batch, *, targets: str, **settings: Any
) -> jax.Array:
    """A loss of scores and targets [Q, L] on a batch."""
    return function(batch.student_scores(), batch.targets(targets), where=batch.where, **settings)


def lists_with_entries(labels: Array, where: Array, settings: LossSettings) -> Array:
    """bool [Q]: the lists with a real entry."""
    return jnp.any(where, axis=1)


@dataclasses.dataclass(frozen=True)
class Loss:
    """Everything that the config and the step know of one loss.

    Attributes:
      function: the loss; its section in `config.loss` has the function's name.
      settings: the keys of that section, beside `weight`. Their defaults are the config's, so they
        may be those of a recipe; the function's own defaults are neutral.
      of_batch: how a batch becomes the function's arguments. It is called with the function, the
        batch, and the settings by name.
      targets: what the loss learns from where it has no setting `targets`: "teacher_scores",
        "labels", or None, which is the first entry of a list alone.
      learns_from_one_entry: when the loss learns something from lists of one entry; None: never, as
        it compares the entries of a list.
      takes_any_scores: when teacher scores may have any values; otherwise they must be in [0, 1].
      has_loss: the lists that the loss is the mean of, of labels, `where` and the settings: bool
        [Q].
      uses_guide: whether the loss uses the embeddings of a guide model, if there is one.
      package: the package that the function imports; ldx has an extra of the same name.
    """

    function: Callable[..., jax.Array]
    settings: Mapping[str, Setting]
    of_batch: Callable[..., jax.Array] = loss_of_lists
    targets: str | None = None
    learns_from_one_entry: When | None = None
    takes_any_scores: When = When()
    has_loss: Callable[[Array, Array, LossSettings], Array] = lists_with_entries
    uses_guide: bool = False
    package: str | None = None

    @property
    def name(self) -> str:
        """The name of the loss's section in the config."""
        return self.function.__name__

    def __call__(self, batch: Batch, settings: LossSettings) -> jax.Array:
        """The loss of a batch."""
        return self.of_batch(self.function, batch, **settings)

    def with_defaults(self, settings: LossSettings) -> LossSettings:
        """These settings, and the defaults of those that are left out."""
        return {key: setting.default for key, setting in self.settings.items()} | dict(settings)

    def learns_from(self, settings: LossSettings) -> str | None:
        """The targets of the loss: "teacher_scores", "labels", or None."""
        return settings.get("targets", self.targets)

    def compares_entries(self, settings: LossSettings) -> bool:
        """Whether the loss learns nothing from lists of one entry."""
        when = self.learns_from_one_entry
        return when is None or not when.holds(settings)

    def needs_unit_scores(self, settings: LossSettings) -> bool:
        """Whether teacher scores must be in [0, 1]."""
        return not self.takes_any_scores.holds(settings)
