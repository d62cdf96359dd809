"""The numbers of a step, and what is said of a step whose numbers are not finite."""

import dataclasses

import jax
import numpy as np

from ldx.common.errors import UserError, listing
from ldx.data.plan import BatchPlan
from ldx.parallel.mesh import to_host

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class StepResult:
    """The numbers of a step, still on the device; reading them waits until the step is done."""

    values: dict[str, jax.Array]
    plan: BatchPlan
    embeddings: jax.Array

    def is_ready(self) -> bool:
        """Whether the step is done, so that nothing waits for its numbers."""
        return all(v.is_ready() for v in self.values.values())  # type: ignore[attr-defined]

    def metrics(self) -> Metrics:
        """The losses before the update, and the gradient's norm before clipping.

        Raises:
          UserError: one of them is not finite; the step then changed nothing but its number.
        """
        metrics = {name: float(value) for name, value in self.values.items()}
        if not all(np.isfinite(value) for value in metrics.values()):
            raise UserError(_non_finite(metrics, self.plan, to_host(self.embeddings)))
        return metrics


def _non_finite(metrics: Metrics, plan: BatchPlan, embeddings: np.ndarray) -> str:
    """The message about a loss that is not finite, with the lists that it comes from."""
    bad_row = ~np.isfinite(embeddings).all(axis=1)
    lists, num_lists = plan.lists, len(plan.list_ids)
    bad_query = bad_row[plan.query_position[:num_lists]]
    if plan.has_stored_passages:
        bad_passage = ~np.isfinite(plan.passages).all(axis=1)
    else:
        bad_passage = bad_row[plan.passages]
    bad_entry = bad_passage[lists.list_index] | ~np.isfinite(lists.teacher_scores)
    bad = bad_query | (bad_entry & lists.where).any(axis=1)[:num_lists]
    list_ids = [name for name, is_bad in zip(plan.list_ids, bad, strict=True) if is_bad]
    values = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
    head = f"the loss is not finite ({values}); training stopped before this step's update.\n"
    if list_ids:
        title = "Lists with embeddings or scores that are not finite:"
    else:
        list_ids, title = plan.list_ids, "All embeddings and scores are finite; the step's lists:"
    advice = "Try a lower --config.optim.learning_rate or higher temperatures, or drop these lists."
    return f"{head}{title}\n{listing(list_ids)}\n{advice}"
