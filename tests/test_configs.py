"""Tests of what single files of configs/ promise."""

import pytest

from configs import sycl


def test_sycl_is_the_published_recipe():
    """Contriever, mean, dot products, temperature 1, 1e-5, one epoch, warm-up of 5%."""
    config = sycl.get_config()
    assert (config.model.pooling, config.model.normalize) == ("mean", False)
    assert (config.model.query_max_length, config.model.passage_max_length) == (256, 256)
    assert config.data.batch_size == 4 * 16 * 4
    assert config.optim.learning_rate == 1e-5
    assert config.train.max_epochs == 1
    steps = sycl.LISTS_OF_AN_EPOCH / config.data.batch_size
    assert config.optim.warmup_steps == pytest.approx(0.05 * steps, abs=0.5)
    weights = {name: section.get("weight") for name, section in config.loss.items()}
    assert {name for name, weight in weights.items() if weight} == {"wasserstein"}
    assert config.loss.wasserstein.temperature == 1.0
    assert config.loss.wasserstein.form == "batch"
