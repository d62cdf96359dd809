"""How much of the texts a model's maximum lengths cut off."""

import dataclasses

import numpy as np

MANY = 0.1
"""The share of cut texts from which on a user is warned."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """What a maximum length cuts off some texts, in numbers.

    Attributes:
      what: the texts in the plural, such as passages.
      key: the config key of the length.
      limit: its value, in tokens, special tokens included.
      num_texts: the number of texts.
      num_cut: those that are longer.
      num_tokens: the tokens of all texts, without special ones.
      num_lost: those of them that are cut off.
    """

    what: str
    key: str
    limit: int
    num_texts: int
    num_cut: int
    num_tokens: int
    num_lost: int

    @classmethod
    def of(cls, what: str, key: str, limit: int, num_special: int, lengths: np.ndarray) -> "Cut":
        """Count what is cut; lengths int [N] are tokens of the texts without special ones."""
        room = limit - num_special
        lost = np.maximum(lengths.astype(np.int64) - room, 0)
        return cls(
            what,
            key,
            limit,
            len(lengths),
            int((lost > 0).sum()),
            int(lengths.sum()),
            int(lost.sum()),
        )

    @property
    def is_much(self) -> bool:
        """Whether a user should be warned."""
        return self.num_cut > MANY * self.num_texts

    @property
    def text(self) -> str:
        """The counts in one sentence."""
        share = self.num_cut / max(self.num_texts, 1)
        lost = self.num_lost / max(self.num_tokens, 1)
        return (
            f"{self.num_cut:,} of {self.num_texts:,} {self.what} ({share:.1%}) are longer than "
            f"config.{self.key}={self.limit} tokens, and {lost:.1%} of all their tokens are cut off"
        )
