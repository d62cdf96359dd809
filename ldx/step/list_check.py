"""Lists that the losses can learn from: checked before anything is compiled."""

import numpy as np

from ldx.common.errors import UserError, listing
from ldx.data.lists import ListTable
from ldx.step.objective import Objective


class ListCheck:
    """Refuses lists that do not fit the losses, before anything is compiled."""

    def __init__(self, objective: Objective):
        self._objective = objective

    def __call__(self, where: str, table: ListTable) -> None:
        """Check the lists of a split; raises UserError."""
        problems = []
        learners = self._objective.comparing_losses
        if learners and len(table) and table.list_size == 1:
            raise UserError(
                f"{where} lists have one entry (config.data.list_size=1 cuts them to that), of "
                f"which {' and '.join(learners)} can learn nothing; info_nce can, and wasserstein "
                "of form batch"
            )
        if learners := self._objective.learn_from("teacher_scores"):
            problems += [
                f"{where} list {table.list_ids[i]!r}: no teacher scores, but "
                f"{' and '.join(learners)} would learn from them"
                for i in np.flatnonzero(~table.has_scores)
            ]
        if learners := self._objective.learn_from("labels"):
            problems += [
                f"{where} list {table.list_ids[i]!r}: no label, but {' and '.join(learners)} would "
                "learn from them"
                for i in np.flatnonzero((table.labels < 0).all(axis=1))
            ]
        level = self._objective.relevance_level
        first = table.labels[:, 0]
        if level is not None and len(table) and not ((first < 0) | (first >= level)).any():
            raise UserError(
                f"config.loss.info_nce.relevance_level={level}: no {where} list has a positive, "
                f"as the greatest label is {table.labels.max()}; lower it"
            )
        if self._objective.needs_unit_scores:
            low, high = table.teacher_scores.min(axis=1), table.teacher_scores.max(axis=1)
            problems += [
                f"{where} list {table.list_ids[i]!r}: teacher scores from {low[i]:g} to {high[i]:g}"
                for i in np.flatnonzero((low < 0) | (high > 1))
            ]
        if problems:
            raise UserError(
                "the records do not fit config.loss: losses learn from teacher scores, or from "
                "labels (LOSS.targets); info_nce.false_negative_ratio compares ratios of scores, "
                "and lambda_loss and approx_ndcg take them as gains, so these want them in [0, 1] "
                "(None switches the ratio off)\n" + listing(problems)
            )
