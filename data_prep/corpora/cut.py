"""What the student's maximum lengths would cut off a corpus, from a sample of its passages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.data.cut import Cut
from ldx.data.tokens import Texts
from ldx.models.section import text_settings
from ldx.models.tokenizer import num_special

MOST_TEXTS = 10_000
"""The most passages, and the most queries, that are counted."""


def find_cuts(model: Mapping[str, Any], texts: Mapping[str, Texts]) -> list[Cut]:
    """Count what is cut off texts; nothing where the model cannot be read here.

    Args:
      model: the section `config.model`.
      texts: the texts by what they are, "passages" or other texts, which are queries.
    """
    from ldx.models.student import read_tokenizer  # late, because JAX takes seconds to import

    try:
        tokenizer, config = read_tokenizer(model["path"], **text_settings(model))
    except UserError as error:
        logging.info("what the model's maximum lengths cut off is not known yet: %s", error)
        return []
    cuts = []
    for what, of_kind in texts.items():
        kind = "passage" if what == "passages" else "query"
        prompt = getattr(config, f"{kind}_prompt")
        encoded = tokenizer.encode([prompt + text for text in _some(of_kind)])
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        key = f"{kind}_max_length"
        limit, special = getattr(config, key), num_special(tokenizer)
        what = what if len(encoded) == len(of_kind) else f"sampled {what}"
        cuts.append(Cut.of(what, f"model.{key}", limit, special, lengths))
    for cut in cuts:
        if cut.is_much:
            logging.warning("%s", cut.text)
    return cuts


def _some(texts: Texts) -> Sequence[str]:
    """The texts, or some of them at equal steps."""
    step = -(-len(texts) // MOST_TEXTS) or 1
    return [texts[number] for number in range(0, len(texts), step)]
