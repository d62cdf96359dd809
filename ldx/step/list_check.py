"""The check that the losses can learn from the lists, before anything is compiled."""

import numpy as np

from ldx.common.errors import UserError, listing
from ldx.data.lists import ListTable
from ldx.losses import LOSSES
from ldx.step.objective import Objective


class ListCheck:
    """Refuses lists that do not fit the losses, before anything is compiled."""

    def __init__(self, objective: Objective):
        self._objective = objective

    def __call__(self, split: str, table: ListTable) -> None:
        """Check the lists of a split, such as "toy train".

        Raises:
          UserError: lists that a loss cannot learn from.
        """
        if not len(table):
            return
        self._check_sizes(split, table)
        self._check_positives(split, table)
        problems = self._targets_missing(split, table)
        if self._objective.unit_score_losses:
            low, high = table.teacher_scores.min(axis=1), table.teacher_scores.max(axis=1)
            problems += [
                f"{split} list {table.list_ids[i]!r}: teacher scores from {low[i]:g} to {high[i]:g}"
                for i in np.flatnonzero((low < 0) | (high > 1))
            ]
        if problems:
            raise UserError(
                "the records do not fit config.loss: losses learn from teacher scores, or from "
                f"labels (LOSS.targets){self._range()}\n{listing(problems)}"
            )

    def _check_sizes(self, split: str, table: ListTable) -> None:
        """Refuse lists of one entry for losses that compare entries."""
        learners = self._objective.comparing_losses
        if not learners or table.list_size > 1:
            return
        able = [
            " ".join([loss.name, *(f"of {key} {value}" for key, value in when.settings.items())])
            for loss in LOSSES.values()
            if (when := loss.learns_from_one_entry)
        ]
        raise UserError(
            f"{split} lists have one entry (config.data.list_size=1 cuts them to that), of "
            f"which {' and '.join(learners)} can learn nothing; {' and '.join(able)} can"
        )

    def _check_positives(self, split: str, table: ListTable) -> None:
        """Refuse lists of which none has a loss."""
        for term in self._objective.terms:
            level = term.settings.get("relevance_level")
            has_loss = term.loss.has_loss(table.labels, table.where, term.settings)
            if level is not None and not has_loss.any():
                raise UserError(
                    f"config.loss.{term.name}.relevance_level={level}: no {split} list has a "
                    f"positive, as the greatest label is {table.labels.max()}; lower it"
                )

    def _targets_missing(self, split: str, table: ListTable) -> list[str]:
        """A message about lists without the targets of a loss."""
        problems = []
        if learners := self._objective.learn_from("teacher_scores"):
            problems += [
                f"{split} list {table.list_ids[i]!r}: no teacher scores, but "
                f"{' and '.join(learners)} would learn from them"
                for i in np.flatnonzero(~table.has_scores)
            ]
        if learners := self._objective.learn_from("labels"):
            problems += [
                f"{split} list {table.list_ids[i]!r}: no label, but {' and '.join(learners)} would "
                "learn from them"
                for i in np.flatnonzero((table.labels < 0).all(axis=1))
            ]
        return problems

    def _range(self) -> str:
        """Which losses need teacher scores in [0, 1], and what would change that."""
        parts = []
        for term in self._objective.terms:
            if term.loss.needs_unit_scores(term.settings):
                others = term.loss.takes_any_scores.settings.items()
                unless = " and ".join(f"{term.name}.{key}={value}" for key, value in others)
                parts.append(f"; {term.name} wants scores in [0, 1], unless {unless}")
        return "".join(parts)
