"""How much of the texts a model's maximum lengths cut off."""

import numpy as np
import pytest

from ldx.data.cut import Cut


def test_counts_and_words():
    """A text of 62 tokens and two special ones fits 64; one more token does not."""
    cut = Cut.of("passages", "model.passage_max_length", 64, 2, np.array([0, 62, 63, 100]))
    assert (cut.num_texts, cut.num_cut, cut.num_tokens, cut.num_lost) == (4, 2, 225, 39)
    assert cut.text == (
        "2 of 4 passages (50.0%) are longer than config.model.passage_max_length=64 tokens, and "
        "17.3% of all their tokens are cut off"
    )


@pytest.mark.parametrize(("num_long", "is_much"), [(0, False), (10, False), (11, True)])
def test_a_user_is_warned_of_more_than_a_tenth(num_long, is_much):
    lengths = np.array([100] * num_long + [10] * (100 - num_long))
    assert Cut.of("queries", "model.query_max_length", 64, 2, lengths).is_much == is_much


def test_no_text_at_all():
    cut = Cut.of("queries", "model.query_max_length", 64, 2, np.array([], np.int32))
    assert not cut.is_much
    assert "0 of 0 queries (0.0%)" in cut.text
