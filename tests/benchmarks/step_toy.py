"""The step benchmark's tiny model and lists, for tests of it."""

import dataclasses
from pathlib import Path

from tests.benchmarks.lists import save, synthetic_lists
from tests.benchmarks.scaling import stored, with_texts
from tests.benchmarks.step_cases import Setup, StepCase

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
CASE = StepCase("toy", "tiny", 6, num_checked=6, passage_max_length=24, lists_per_microbatch=2)
PLENTY = 2**30  # bytes of activations, more than any batch here has


def write_lists(folder: Path) -> Path:
    """Write twelve lists of three over thirty passages; the folder."""
    lists = synthetic_lists(30, 12, 3, mean_length=25, seed=1, vocab_size=SIZES["vocab_size"])
    save(folder / "toy.npz", with_texts(lists, stored))
    return folder


def make_setup(folder: Path, lists_folder: Path, **changes: object) -> Setup:
    """The setup of `CASE` with some of its fields changed."""
    case = dataclasses.replace(CASE, **changes)
    return Setup(case, str(lists_folder / "toy.npz"), str(folder), query_max_length=16)
