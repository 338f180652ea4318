"""Sampled softmax with logQ correction, as ItemSage trains: L_pos + L_neg, computed separately and summed (§3.4).

L_pos takes the other products of the batch as negatives, L_neg random products of the catalogue. Popular products are
drawn more often as in-batch negatives than their share of the catalogue; subtracting log Q of each candidate undoes
that (Bengio and Senécal, 2008; Yi et al., 2019). Order: scale by the temperature, correct, mask.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

INITIAL_SCALE = 1 / 0.07
MAX_SCALE = 100.0


class Temperature(nn.Module):
    """The learned scale of the cosines: exp(t), initially 1/0.07, at most 100."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def forward(self) -> Tensor:
        return self.log_scale.exp().clamp(max=MAX_SCALE)


def sampled_softmax(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    scale: Tensor,
    positive_log_q: Tensor,
    negative_log_q: Tensor,
    masked: Tensor,
) -> Tensor:
    """Mean over the batch of -log p(positive | query) against sampled negatives.

    Args:
        queries: `[B, D]` unit vectors.
        positives: `[B, D]` unit vectors of the engaged products, row by row.
        negatives: `[N, D]` unit vectors, shared by all queries.
        scale: factor on the cosines (see `Temperature`).
        positive_log_q: `[B]` log P(product | query), by which the positive is corrected.
        negative_log_q: `[N]` log of how often each negative is expected among the N drawn.
        masked: `[B, N]` bool, true where a negative is the positive or also engaged by the query.
    """
    positive = scale * (queries * positives).sum(1) - positive_log_q
    negative = scale * (queries @ negatives.T) - negative_log_q
    negative = negative.masked_fill(masked, -math.inf)
    return (torch.logsumexp(torch.cat([positive[:, None], negative], 1), 1) - positive).mean()
