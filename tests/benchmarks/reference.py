"""The training step as CADET's public trainer takes it, in PyTorch: ldx's is timed beside it.

A global batch of Q lists of L entries is cut into micro-batches of whole lists. Every entry is
embedded, a repeated passage as often as it stands there; a micro-batch is padded to its longest
passage. Gradient caching (Gao et al., arXiv 2101.06983) takes two passes over the micro-batches.

Q queries, L list entries, P distinct passages, D dimensions, M micro-batches.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.benchmarks.lists import BenchmarkLists
from tests.benchmarks.reference_losses import Settings, losses_and_gradients

__all__ = [
    "ReferenceResult",
    "Settings",
    "embed",
    "load_bert",
    "losses_and_gradients",
    "padded_tokens",
    "reference_step",
]


@dataclass(frozen=True, eq=False)
class ReferenceResult:
    """What one step computed, and how long it took.

    Attributes:
      losses: loss (what is minimised), listwise_kl and info_nce; empty when only a sample of the
        micro-batches was run.
      gradients: by the parameter's name in the Hugging Face model; None when only a sample was run.
      seconds: embed (first pass), loss, backprop (second pass). Of a sample, embed and backprop are
        scaled up by padded tokens to the whole batch.
      padded_tokens: of the whole batch in one pass, queries included.
      real_tokens: those of them that are not padding.
      num_microbatches: M.
      num_timed_microbatches: how many were run; under M, this is a sample.
      peak_bytes: most memory that PyTorch held on the GPU; None on a CPU.
    """

    losses: dict[str, float]
    gradients: dict[str, torch.Tensor] | None
    seconds: dict[str, float]
    padded_tokens: int
    real_tokens: int
    num_microbatches: int
    num_timed_microbatches: int
    peak_bytes: int | None

    @property
    def is_sample(self) -> bool:
        """Whether times are scaled up from some of the micro-batches."""
        return self.num_timed_microbatches < self.num_microbatches

    @property
    def total_seconds(self) -> float:
        """Of the whole step, without the optimiser's update."""
        return sum(self.seconds.values())


class Stopwatch:
    """Tells the seconds since its last look, once the device has done all it was asked to do."""

    def __init__(self, device: torch.device):
        self._device = device
        self._last = 0.0
        self.seconds()

    def seconds(self) -> float:
        """Seconds since the last call."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def peak_bytes(device: torch.device, *, reset: bool = False) -> int | None:
    """Most memory that PyTorch held on a GPU since the last reset; None on a CPU."""
    if device.type != "cuda":
        return None
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device)


def take_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients by the parameters' names; none stays in the model."""
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def load_bert(folder: str | Path, device: str | torch.device = "cpu") -> transformers.BertModel:
    """A BERT without its pooler, attention by PyTorch's scaled_dot_product_attention."""
    model = transformers.BertModel.from_pretrained(
        folder, add_pooling_layer=False, attn_implementation="sdpa"
    )
    model.to(device)  # type: ignore[arg-type]
    return model.eval()


def padded_tokens(lists: BenchmarkLists, numbers: np.ndarray, settings: Settings) -> int:
    """Tokens that one pass over the batch feeds to the model, padding and queries included.

    Args:
      lists: where the batch comes from.
      numbers: int [Q], the lists of the batch.
      settings: the maximum lengths, and how many lists a micro-batch has.
    """
    return int(microbatch_tokens(lists, numbers, settings)[0].sum())


def microbatch_tokens(
    lists: BenchmarkLists, numbers: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each micro-batch, queries included: with padding, and without; int64 [M] each."""
    query_lengths = lists.query_lengths(settings.query_max_length)
    passage_lengths = lists.passage_lengths(settings.passage_max_length)
    padded, real = [], []
    for chunk in _microbatches(numbers, settings):
        texts = query_lengths[lists.query[chunk]], passage_lengths[lists.rows[chunk]]
        padded.append(sum(lengths.size * int(lengths.max()) for lengths in texts))
        real.append(sum(int(lengths.sum()) for lengths in texts))
    return np.array(padded, np.int64), np.array(real, np.int64)


def embed(
    model: torch.nn.Module,
    token_ids: torch.Tensor,
    mask: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Unit-norm means over real tokens, [B, D] of token_ids and mask [B, T]; at least float32."""
    reduced = dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(token_ids.device.type, dtype=dtype, enabled=reduced):
        hidden = model(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    weights = mask[:, :, None].to(hidden.dtype)
    mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    return torch.nn.functional.normalize(mean, dim=1)


def reference_step(
    model: torch.nn.Module,
    lists: BenchmarkLists,
    numbers: np.ndarray,
    settings: Settings,
    *,
    device: str | torch.device,
    dtype: torch.dtype = torch.float32,
    sample_microbatches: int | None = None,
) -> ReferenceResult:
    """Losses and parameter gradients of one global batch; no update.

    Making the model's input is not timed: a loader does that beside the step. The first call on a
    GPU also pays for its set-up, so call once with sample_microbatches=1 before.

    Args:
      model: a BertModel on `device` (`load_bert`); dropout is off.
      lists: where the batch comes from.
      numbers: int [Q], the lists of the batch.
      settings: sizes, weights and temperatures.
      device: where to compute.
      dtype: bfloat16 runs the model under autocast; losses and pooling are float32 all the same.
      sample_microbatches: run so many micro-batches, evenly spaced, in both passes. The loss is
        then timed on random unit vectors in the others' place. None, or M and more, runs all.
    """
    device = torch.device(device)
    padded, real = microbatch_tokens(lists, numbers, settings)
    timed = _evenly_spaced(len(padded), sample_microbatches)
    is_sample = len(timed) < len(padded)
    batch = _prepare(lists, numbers, settings, timed, device)
    peak_bytes(device, reset=True)
    losses, seconds = _two_passes(model, batch, settings, device, dtype)
    gradients = take_gradients(model)
    for name in ("embed", "backprop"):
        seconds[name] *= float(padded.sum() / padded[timed].sum())
    return ReferenceResult(
        losses={} if is_sample else losses,
        gradients=None if is_sample else gradients,
        seconds=seconds,
        padded_tokens=int(padded.sum()),
        real_tokens=int(real.sum()),
        num_microbatches=len(padded),
        num_timed_microbatches=len(timed),
        peak_bytes=peak_bytes(device),
    )


@dataclass(frozen=True, eq=False)
class _MicroBatch:
    """Model input of some lists, token_ids and mask; `places` are the lists' places in the batch.

    Passages are those of the first list, of the second, and so on.
    """

    places: torch.Tensor
    queries: tuple[torch.Tensor, torch.Tensor]
    passages: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class _Batch:
    rows: torch.Tensor
    teacher_scores: torch.Tensor
    microbatches: list[_MicroBatch]  # those that are run


def _prepare(
    lists: BenchmarkLists,
    numbers: np.ndarray,
    settings: Settings,
    timed: np.ndarray,
    device: torch.device,
) -> _Batch:
    chunks = _microbatches(np.arange(len(numbers)), settings)
    microbatches = []
    for places in (chunks[i] for i in timed):
        chosen = numbers[places]
        queries = lists.padded_queries(lists.query[chosen], settings.query_max_length)
        passages = lists.padded_passages(lists.rows[chosen].ravel(), settings.passage_max_length)
        microbatches.append(
            _MicroBatch(
                torch.from_numpy(places).to(device), _tensors(*queries), _tensors(*passages)
            )
        )
    rows = torch.from_numpy(lists.rows[numbers].astype(np.int64)).to(device)
    return _Batch(rows, torch.from_numpy(lists.teacher_scores[numbers]).to(device), microbatches)


def _two_passes(
    model: torch.nn.Module,
    batch: _Batch,
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[dict[str, float], dict[str, float]]:
    """Losses and unscaled seconds; the gradients stay in the model."""
    model.eval().zero_grad(set_to_none=True)
    stopwatch = Stopwatch(device)
    queries, slots = _first_pass(model, batch, device, dtype)
    seconds = {"embed": stopwatch.seconds()}
    losses, query_gradients, slot_gradients = losses_and_gradients(
        queries, slots, batch.rows, batch.teacher_scores, settings
    )
    seconds["loss"] = stopwatch.seconds()
    for part in batch.microbatches:
        query_part, slot_part = _embed_both(model, part, device, dtype)
        products = query_part * query_gradients[part.places]
        slot_products = slot_part * slot_gradients[part.places].flatten(0, 1)
        (products.sum() + slot_products.sum()).backward()
    seconds["backprop"] = stopwatch.seconds()
    return losses, seconds


@torch.no_grad()
def _first_pass(
    model: torch.nn.Module, batch: _Batch, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [Q, D] and [Q, L, D]; random unit vectors where no micro-batch is run."""
    parts = [_embed_both(model, part, device, dtype) for part in batch.microbatches]
    example = parts[0][0]
    shape = (*batch.rows.shape, example.shape[1])
    queries, slots = example.new_empty(shape[0], shape[2]), example.new_empty(shape)
    if sum(len(part.places) for part in batch.microbatches) < len(batch.rows):
        queries, slots = (
            torch.nn.functional.normalize(x.normal_(), dim=-1) for x in (queries, slots)
        )
    for part, (query_part, slot_part) in zip(batch.microbatches, parts, strict=True):
        queries[part.places] = query_part
        slots[part.places] = slot_part.unflatten(0, (-1, shape[1]))
    return queries, slots


def _embed_both(
    model: torch.nn.Module, part: _MicroBatch, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    queries, passages = (
        embed(model, ids.to(device), mask.to(device), dtype)
        for ids, mask in (part.queries, part.passages)
    )
    return queries, passages


def _microbatches(numbers: np.ndarray, settings: Settings) -> list[np.ndarray]:
    size = settings.lists_per_microbatch
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _evenly_spaced(num_microbatches: int, sample: int | None) -> np.ndarray:
    if sample is None or sample >= num_microbatches:
        return np.arange(num_microbatches)
    assert sample > 0, sample
    return ((np.arange(sample) + 0.5) * num_microbatches / sample).astype(int)


def _tensors(token_ids: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(token_ids.astype(np.int64)), torch.from_numpy(mask)
