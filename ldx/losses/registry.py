"""The table of losses: a line for each that the config can name."""

from ldx.losses.contrastive import INFO_NCE
from ldx.losses.listwise import APPROX_NDCG, LIST_MLE, LISTWISE_KL
from ldx.losses.loss import Loss
from ldx.losses.optimal_transport import WASSERSTEIN
from ldx.losses.pairwise import LAMBDA_LOSS, MARGIN_MSE, RANK_NET

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        LISTWISE_KL,
        INFO_NCE,
        MARGIN_MSE,
        RANK_NET,
        LIST_MLE,
        LAMBDA_LOSS,
        APPROX_NDCG,
        WASSERSTEIN,
    )
}
"""Losses by the name of their section in the config."""
