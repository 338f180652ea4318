"""Sampled softmax with logQ correction, and the learned temperature.

A popular product is drawn as an in-batch negative more often than its share of the catalogue. Subtracting log Q of each
candidate corrects this (Bengio and Senécal, 2008; Yi et al., 2019). The order is: scale by the temperature, correct,
mask.
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
        """Return the scale."""
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
    """Return the mean over the batch of -log p(positive | query) against sampled negatives, from all logits at once.

    Args:
        queries: `[B, D]` unit vectors.
        positives: `[B, D]` unit vectors of the engaged products, row by row.
        negatives: `[N, D]` unit vectors, shared by all queries.
        scale: Factor of the cosines (see `Temperature`).
        positive_log_q: `[B]`, log P(product | query), the correction of the positive.
        negative_log_q: `[N]`, log of the expected number of draws of each negative among the N.
        masked: `[B, N]` bool, true if a negative is the positive or was also engaged with after the query.
    """
    positive = scale * (queries * positives).sum(1) - positive_log_q
    negative = scale * (queries @ negatives.T) - negative_log_q
    negative = negative.masked_fill(masked, -math.inf)
    return (torch.logsumexp(torch.cat([positive[:, None], negative], 1), 1) - positive).mean()
