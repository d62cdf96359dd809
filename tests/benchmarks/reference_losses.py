"""CADET's two losses in PyTorch, and their gradients with respect to a global batch's embeddings.

Q queries, L list entries, P distinct passages, D dimensions. Slot [i, l] is entry l of list i.
"""

from dataclasses import dataclass

import torch

LOSS_CHUNK = 512
"""Queries whose InfoNCE is computed at once: memory is LOSS_CHUNK times P, not Q times P."""


@dataclass(frozen=True)
class Settings:
    """The step's settings; the defaults are CADET's."""

    query_max_length: int = 64
    passage_max_length: int = 512
    lists_per_microbatch: int = 16
    student_temperature: float = 0.05
    teacher_temperature: float = 0.3
    contrastive_weight: float = 0.1
    temperature: float = 0.01
    false_negative_ratio: float = 0.6


def listwise_kl(scores: torch.Tensor, teacher: torch.Tensor, settings: Settings) -> torch.Tensor:
    """KL(teacher ‖ student) of each list, [Q] of scores and teacher [Q, L]; no factor T²."""
    student_log = torch.log_softmax(scores / settings.student_temperature, dim=1)
    teacher_log = torch.log_softmax(teacher / settings.teacher_temperature, dim=1)
    return (teacher_log.exp() * (teacher_log - student_log)).sum(dim=1)


def info_nce(
    queries: torch.Tensor,
    passages: torch.Tensor,
    list_index: torch.Tensor,
    counts: torch.Tensor,
    teacher: torch.Tensor,
    settings: Settings,
) -> torch.Tensor:
    """InfoNCE of each query against every slot of the global batch.

    A passage weighs as many slots as it fills in the batch; 0 where it stands in the query's own
    list with a score over false_negative_ratio times the first one's; 1 if it is the positive.

    Args:
      queries: [C, D], some of the batch's queries.
      passages: [P, D], the distinct passages of the global batch.
      list_index: int64 [C, L], places in `passages`; entry 0 is the positive.
      counts: int64 [P], how many slots of the global batch each passage fills.
      teacher: [C, L].
      settings: the temperature and the ratio.

    Returns:
      the losses [C].
    """
    logits = queries @ passages.T / settings.temperature
    log_weights = counts.to(logits.dtype).log().repeat(len(queries), 1)
    dropped = teacher > settings.false_negative_ratio * teacher[:, :1]
    query, entry = dropped.nonzero(as_tuple=True)
    log_weights[query, list_index[query, entry]] = -torch.inf
    log_weights.scatter_(1, list_index[:, :1], 0.0)
    positives = logits.gather(1, list_index[:, :1])[:, 0]
    return torch.logsumexp(logits + log_weights, dim=1) - positives


def losses_and_gradients(
    queries: torch.Tensor,
    slots: torch.Tensor,
    rows: torch.Tensor,
    teacher: torch.Tensor,
    settings: Settings,
) -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
    """The losses of the global batch, and the loss's gradients with respect to the embeddings.

    InfoNCE looks at one slot of each distinct passage and weighs it by the number of slots, so that
    slot gets the gradient of all of them: the same sum, in less time and memory.

    Args:
      queries: [Q, D].
      slots: [Q, L, D], the embedding of every list entry; those of one passage are equal.
      rows: int64 [Q, L], which passage each entry is.
      teacher: [Q, L].
      settings: weights, temperatures and the ratio.

    Returns:
      losses by name, gradients [Q, D], gradients [Q, L, D].
    """
    _, index, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    places = torch.arange(rows.numel(), device=rows.device)
    slot_of = torch.empty_like(counts).scatter_(0, index.flatten(), places)
    teacher = teacher.to(slots.dtype)
    queries = queries.detach().requires_grad_()
    slots = slots.detach().requires_grad_()
    passages = slots.detach().flatten(0, 1)[slot_of].requires_grad_()
    means = torch.zeros(2, dtype=slots.dtype, device=slots.device)
    for start in range(0, len(rows), LOSS_CHUNK):
        chunk = slice(start, start + LOSS_CHUNK)
        scores = torch.einsum("qd,qld->ql", queries[chunk], slots[chunk])
        arguments = queries[chunk], passages, index[chunk], counts, teacher[chunk], settings
        listwise = listwise_kl(scores, teacher[chunk], settings).sum() / len(rows)
        contrastive = info_nce(*arguments).sum() / len(rows)
        (listwise + settings.contrastive_weight * contrastive).backward()
        means += torch.stack([listwise, contrastive]).detach()
    query_gradients, slot_gradients, passage_gradients = map(_gradient, (queries, slots, passages))
    slot_gradients.flatten(0, 1)[slot_of] += passage_gradients
    return _named(means, settings), query_gradients, slot_gradients


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _named(means: torch.Tensor, settings: Settings) -> dict[str, float]:
    listwise, contrastive = means.tolist()
    total = listwise + settings.contrastive_weight * contrastive
    return {"loss": total, "listwise_kl": listwise, "info_nce": contrastive}
