"""Losses that teach a retriever from lists of scored passages.

Shapes: Q queries, L list entries, P distinct passages, D dimensions. A list is a row of
`list_index` [Q, L], which points into `passage_embeddings` [P, D]; entry 0 is the positive. Scores
come before any temperature. `where` [Q, L] is true at real entries; everything else is padding,
whatever it holds, and enters nothing. Losses compute in at least float32, matrix products at
`Precision.HIGHEST`: TF32 and a TPU's default are too coarse at temperature 0.01.

`reduce_fn` sees only the lists that have a loss, through its `where` argument, so padding never
changes a mean; `reduce_fn=None` returns one loss a list, 0 for the others. The Wasserstein losses
compare all lists of a batch at once and are one number.

`weights` are there as in rax: [Q, L] for the terms of list entries (each loss says which those
are), or [Q, 1] for whole lists; they multiply what is summed and do not enter the number of terms
that a mean divides by. A list whose weights are all 0 has no loss. The functions' own defaults are
neutral, temperatures 1; those of a recipe are the config's (`LOSSES`).

| losses | of |
|---|---|
| `listwise_kl` `list_mle` `approx_ndcg` | a list's scores and targets (listwise.py) |
| `margin_mse` `rank_net` `lambda_loss` | pairs of a list's entries (pairwise.py) |
| `info_nce` | a positive against the whole batch (contrastive.py) |
| `wasserstein` `list_wasserstein` | the distribution of graded lists (optimal_transport.py) |
"""

from ldx.losses.common import Array, ReduceFn, dot, list_scores, slot_counts
from ldx.losses.contrastive import has_positive, info_nce
from ldx.losses.listwise import approx_ndcg, list_mle, listwise_kl
from ldx.losses.loss import Batch, Loss, Setting, When
from ldx.losses.optimal_transport import (
    list_wasserstein,
    slot_labels,
    slot_scores,
    slot_where,
    wasserstein,
)
from ldx.losses.pairwise import lambda_loss, margin_mse, rank_net
from ldx.losses.registry import LOSSES

__all__ = [
    "LOSSES",
    "Array",
    "Batch",
    "Loss",
    "ReduceFn",
    "Setting",
    "When",
    "approx_ndcg",
    "dot",
    "has_positive",
    "info_nce",
    "lambda_loss",
    "list_mle",
    "list_scores",
    "list_wasserstein",
    "listwise_kl",
    "margin_mse",
    "rank_net",
    "slot_counts",
    "slot_labels",
    "slot_scores",
    "slot_where",
    "wasserstein",
]
