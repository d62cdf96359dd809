"""One step with the losses of sentence-transformers, for those who would use that library.

`DistillKLDivLoss` is listwise distillation without gradient caching: all activations of the batch
are held at once. `CachedMultipleNegativesRankingLoss` is InfoNCE with gradient caching, without a
mask of false negatives. Both embed every list entry; a list's entries are columns.

Q queries, L list entries, D dimensions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import (  # type: ignore[attr-defined]
    SentenceTransformer,
    losses,  # where 5 and 6 both have it
    util,
)

from tests.benchmarks.lists import BenchmarkLists
from tests.benchmarks.reference import Stopwatch, peak_bytes, take_gradients
from tests.benchmarks.reference_losses import Settings

Features = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one step computed, and how long it took.

    Attributes:
      loss: the value that is minimised, a mean over the queries.
      gradients: by the parameter's name in the Hugging Face model.
      seconds: forward and backward, without the optimiser's update.
      padded_tokens: fed to the model with gradients, padding and queries included; gradient caching
        feeds as many once more without.
      peak_bytes: most memory that PyTorch held on the GPU; None on a CPU.
    """

    loss: float
    gradients: dict[str, torch.Tensor]
    seconds: float
    padded_tokens: int
    peak_bytes: int | None


def load_sentence_transformer(
    folder: str | Path, device: str | torch.device = "cpu"
) -> SentenceTransformer:
    """The model of a folder, dropout off; its last module has to give unit-norm embeddings."""
    model = SentenceTransformer(
        str(folder), device=str(device), model_kwargs={"attn_implementation": "sdpa"}
    )
    return model.eval()


def distill_loss(model: torch.nn.Module, settings: Settings) -> losses.DistillKLDivLoss:
    """A loss that equals `ldx.losses.listwise_kl`, given `distill_labels` as labels.

    sentence-transformers computes T² · KL(softmax(labels / T) ‖ softmax(scores / T)), the mean over
    the queries. At T = 1 the factor is 1, and both temperatures go into what is fed: the scores are
    divided by the student's, the labels by the teacher's. (Its own arguments student_temperature
    and teacher_temperature would give the same times student_temperature²: 0.0025 at 0.05.)
    """

    def scaled_dot(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        return util.pairwise_dot_score(queries, passages) / settings.student_temperature

    return losses.DistillKLDivLoss(model, similarity_fct=scaled_dot, temperature=1.0)


def distill_labels(teacher_scores: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The labels [Q, L] of `distill_loss` for teacher scores [Q, L]."""
    return teacher_scores / settings.teacher_temperature


def contrastive_loss(
    model: torch.nn.Module, settings: Settings, mini_batch_size: int
) -> losses.CachedMultipleNegativesRankingLoss:
    """A loss that equals `ldx.losses.info_nce` with no mask, on lists that share no passage.

    Its denominator is every slot of every list. A passage of two lists stands in it twice, as in
    info_nce; but where that is the query's own positive, only info_nce counts it once.
    """
    return losses.CachedMultipleNegativesRankingLoss(
        model, scale=1 / settings.temperature, mini_batch_size=mini_batch_size
    )


def distill_step(
    model: SentenceTransformer,
    lists: BenchmarkLists,
    numbers: np.ndarray,
    settings: Settings,
    *,
    dtype: torch.dtype = torch.float32,
) -> StepResult:
    """Forward and backward of `DistillKLDivLoss` over the lists `numbers`.

    Args:
      model: as `load_sentence_transformer` gives it.
      lists: where the batch comes from.
      numbers: int [Q], the lists of the batch.
      settings: maximum lengths and temperatures.
      dtype: bfloat16 runs the model under autocast, as a trainer with bf16=True does.
    """
    teacher = torch.from_numpy(lists.teacher_scores[numbers])
    labels = distill_labels(teacher, settings).to(model.device)
    return _step(model, distill_loss(model, settings), lists, numbers, labels, settings, dtype)


def contrastive_step(
    model: SentenceTransformer,
    lists: BenchmarkLists,
    numbers: np.ndarray,
    settings: Settings,
    *,
    mini_batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> StepResult:
    """Forward and backward of `CachedMultipleNegativesRankingLoss`; arguments as `distill_step`.

    `mini_batch_size` is how many texts of one column go through the model at once.
    """
    loss = contrastive_loss(model, settings, mini_batch_size)
    labels = torch.zeros(0, device=model.device)  # it has none
    return _step(model, loss, lists, numbers, labels, settings, dtype)


def columns(lists: BenchmarkLists, numbers: np.ndarray, settings: Settings) -> list[Features]:
    """The queries, then entry 0 of all lists, entry 1, ...; each padded to its longest text."""
    queries = lists.padded_queries(lists.query[numbers], settings.query_max_length)
    passages = (
        lists.padded_passages(rows, settings.passage_max_length) for rows in lists.rows[numbers].T
    )
    return [
        {
            "input_ids": torch.from_numpy(token_ids.astype(np.int64)),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        for token_ids, mask in (queries, *passages)
    ]


def _step(
    model: SentenceTransformer,
    loss_function: torch.nn.Module,
    lists: BenchmarkLists,
    numbers: np.ndarray,
    labels: torch.Tensor,
    settings: Settings,
    dtype: torch.dtype,
) -> StepResult:
    features = columns(lists, numbers, settings)
    device = model.device
    model.zero_grad(set_to_none=True)
    peak_bytes(device, reset=True)
    with _autocast(model, dtype), _counted(model) as counts:
        stopwatch = Stopwatch(device)
        loss = loss_function([_moved(column, device) for column in features], labels)
        loss.backward()
        seconds = stopwatch.seconds()
    gradients = take_gradients(model[0].auto_model)  # type: ignore[arg-type]
    return StepResult(loss.item(), gradients, seconds, sum(counts), peak_bytes(device))


def _moved(features: Features, device: torch.device) -> Features:
    return {name: tensor.to(device) for name, tensor in features.items()}


@contextmanager
def _autocast(model: SentenceTransformer, dtype: torch.dtype) -> Iterator[None]:
    """The model's forward alone under autocast, its embeddings float32: as Accelerate does it."""
    if dtype == torch.float32:
        yield
        return
    forward = model.forward

    def reduced(features: Features, **kwargs: Any) -> Features:
        with torch.autocast(model.device.type, dtype=dtype):
            output = forward(features, **kwargs)
        return output | {"sentence_embedding": output["sentence_embedding"].float()}

    model.forward = reduced  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del model.forward


@contextmanager
def _counted(model: SentenceTransformer) -> Iterator[list[int]]:
    """Tokens of each call of the model that keeps gradients."""
    counts: list[int] = []

    def count(module: torch.nn.Module, arguments: Sequence[Features]) -> None:
        if torch.is_grad_enabled():
            counts.append(arguments[0]["input_ids"].numel())

    handle = model[0].register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        handle.remove()
