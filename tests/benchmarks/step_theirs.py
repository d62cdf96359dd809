"""The other sides of the step benchmark: the reference, and sentence-transformers."""

import functools
from typing import Any

import numpy as np
import torch
import transformers

from ldx.common.files import read_json
from tests.benchmarks.lists import load
from tests.benchmarks.reference import load_bert, microbatch_tokens, reference_step
from tests.benchmarks.reference_losses import Settings
from tests.benchmarks.sentence_transformers_step import (
    contrastive_step,
    distill_step,
    load_sentence_transformer,
)
from tests.benchmarks.step_cases import (
    DISTILL,
    PASSES_ONCE_FORWARD,
    PASSES_TWICE_FORWARD,
    REFERENCE,
    THEIR_MEMORY_SHARE,
    Setup,
    SideResult,
    forward_flops,
)
from tests.benchmarks.worker import peak_memory, reset_peak

MINI_BATCH_SIZE = 32
"""Of CachedMultipleNegativesRankingLoss; its own default."""


class TheirSide:
    """What the sides that run in PyTorch have in common."""

    def __init__(self, setup: Setup):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._case = setup.case
        self._device = "cuda" if setup.device == "gpu" else "cpu"
        if self._device == "cuda":
            torch.cuda.set_per_process_memory_fraction(THEIR_MEMORY_SHARE)
        self._dtype = getattr(torch, setup.case.dtype)
        self._lists = load(setup.lists)
        self._sizes = read_json(f"{setup.folder}/config.json")
        self._settings = Settings(
            query_max_length=setup.query_max_length,
            passage_max_length=setup.case.passage_max_length,
            lists_per_microbatch=setup.case.lists_per_microbatch,
        )
        self._gradients: dict[str, torch.Tensor] | None = None

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the last step over a whole batch, by Hugging Face's names."""
        assert self._gradients is not None, "only a sample was run"
        return {name: x.float().cpu().numpy() for name, x in self._gradients.items()}

    def _flops(self, numbers: np.ndarray, passes: int) -> float:
        lists, settings = self._lists, self._settings
        lengths = np.concatenate(
            [
                lists.query_lengths(settings.query_max_length)[lists.query[numbers]],
                lists.passage_lengths(settings.passage_max_length)[lists.rows[numbers]].ravel(),
            ]
        )
        sizes = self._sizes
        layers, hidden = sizes["num_hidden_layers"], sizes["hidden_size"]
        return passes * forward_flops(lengths, layers, hidden, sizes["intermediate_size"])

    def _real_tokens(self, numbers: np.ndarray) -> int:
        return int(microbatch_tokens(self._lists, numbers, self._settings)[1].sum())


class ReferenceSide(TheirSide):
    """The reference's way: two passes over micro-batches of whole lists."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self._model = load_bert(setup.folder, self._device)

    def num_microbatches(self, numbers: np.ndarray) -> int:
        """Micro-batches of a batch, with the lists that fit in memory in each."""
        return -(-len(numbers) // self._settings.lists_per_microbatch)

    def step(self, numbers: np.ndarray, sample_microbatches: int | None = None) -> list[SideResult]:
        """One step; of some micro-batches only, evenly spaced, where a number is given.

        Where a GPU's memory is too short, micro-batches have half as many lists from then on.
        """
        while True:
            try:
                return [self._step(numbers, sample_microbatches)]
            except torch.cuda.OutOfMemoryError:
                size = self._settings.lists_per_microbatch // 2
                if not size:
                    raise
            torch.cuda.empty_cache()
            self._settings = Settings(**vars(self._settings) | {"lists_per_microbatch": size})

    def _step(self, numbers: np.ndarray, sample_microbatches: int | None) -> SideResult:
        resting = reset_peak()
        result = reference_step(
            self._model,
            self._lists,
            numbers,
            self._settings,
            device=self._device,
            dtype=self._dtype,
            sample_microbatches=sample_microbatches,
        )
        self._gradients = result.gradients
        return SideResult(
            seconds=result.total_seconds,
            model_seconds=result.seconds["embed"] + result.seconds["backprop"],
            loss=result.losses.get("loss"),
            padded_tokens=result.padded_tokens,
            real_tokens=result.real_tokens,
            flops=self._flops(numbers, PASSES_TWICE_FORWARD),
            peak_bytes=result.peak_bytes or peak_memory(),
            notes={f"{name}_seconds": value for name, value in result.seconds.items()}
            | {
                "microbatches": result.num_microbatches,
                "timed_microbatches": result.num_timed_microbatches,
                "lists_per_microbatch": self._settings.lists_per_microbatch,
                "resting_bytes": resting,
            },
        )


class SentenceTransformersSide(TheirSide):
    """A loss of sentence-transformers, forward and backward."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self._model = load_sentence_transformer(setup.folder, self._device)
        is_distill = setup.case.rival == DISTILL
        self._passes = PASSES_ONCE_FORWARD if is_distill else PASSES_TWICE_FORWARD
        self._run: Any = (
            distill_step
            if is_distill
            else functools.partial(contrastive_step, mini_batch_size=MINI_BATCH_SIZE)
        )

    def num_microbatches(self, numbers: np.ndarray) -> int:
        """1: there is nothing to sample."""
        return 1

    def step(self, numbers: np.ndarray, sample_microbatches: int | None = None) -> list[SideResult]:
        """One step, always whole."""
        resting = reset_peak()
        result = self._run(self._model, self._lists, numbers, self._settings, dtype=self._dtype)
        self._gradients = result.gradients
        return [
            SideResult(
                seconds=result.seconds,
                model_seconds=result.seconds,
                loss=result.loss,
                padded_tokens=result.padded_tokens,
                real_tokens=self._real_tokens(numbers),
                flops=self._flops(numbers, self._passes),
                peak_bytes=result.peak_bytes or peak_memory(),
                notes={"resting_bytes": resting},
            )
        ]


def make_side(setup: Setup) -> ReferenceSide | SentenceTransformersSide:
    """The rival of a case."""
    return (ReferenceSide if setup.case.rival == REFERENCE else SentenceTransformersSide)(setup)
