"""Sampled softmax with logQ correction, as ItemSage trains: L_pos + L_neg, computed separately and summed (§3.4).

L_pos takes the other products of the batch as negatives, L_neg random products of the catalogue. Popular products are
drawn more often as in-batch negatives than their share of the catalogue; subtracting log Q of each candidate undoes
that (Bengio and Senécal, 2008; Yi et al., 2019). Order: scale by the temperature, correct, mask.

A product drawn m times as a negative stands once, with log m added to its logit: the sum is the same, and all terms of
the loss read the same matrix of distinct products. The softmax runs over that matrix in chunks and forms the logits
again for the gradient, so that memory does not grow with queries x negatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_SCALE = 1 / 0.07
MAX_SCALE = 100.0
CHUNK = 4096  # candidates whose logits are in memory at once


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
    """Mean over the batch of -log p(positive | query) against sampled negatives, all logits at once.

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


class Candidates(NamedTuple):
    """What the loss has to know about a batch of B queries and its P distinct products.

    Attributes:
        positive: `[B]` int, which of the products each query engaged with.
        positive_log_q: `[B]` log P(product | query), by which the positive is corrected.
        weights: one tensor per term of the loss, `[<= P]`: log m - log Q of each product, -inf for one that is no
            candidate of the term (m: how often it was drawn; Q: how often it is expected). Products beyond a tensor's
            end are no candidates either.
        masked_query, masked_product: `[M]` int each, the pairs that are no negatives, sorted by product.
    """

    positive: Tensor
    positive_log_q: Tensor
    weights: Sequence[Tensor]
    masked_query: Tensor
    masked_product: Tensor

    def to(self, device: torch.device) -> Candidates:
        """The same on another device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Candidates(
            moved(self.positive),
            moved(self.positive_log_q),
            [moved(w) for w in self.weights],
            moved(self.masked_query),
            moved(self.masked_product),
        )


def itemsage_loss(
    queries: Tensor,
    products: Tensor,
    candidates: Candidates,
    scale: Tensor,
    *,
    prefixes: Sequence[int] = (),
    prefix_weight: float = 0.05,
    chunk: int = CHUNK,
) -> Tensor:
    """Sum over the terms of the mean over the queries of -log p(positive | query).

    Args:
        queries: `[B, D]` unit vectors.
        products: `[P, D]` unit vectors of the distinct products of the batch.
        candidates: see `Candidates`.
        scale: factor on the cosines (see `Temperature`).
        prefixes: the loss also on the first so many dimensions, of unit length again (Kusupati et al., 2022), ...
        prefix_weight: ... each with this weight.
        chunk: candidates whose logits are in memory at once.
    """
    total = _loss(queries, products, candidates, scale, chunk)
    for size in prefixes:
        short = F.normalize(queries[:, :size], dim=1), F.normalize(products[:, :size], dim=1)
        total = total + prefix_weight * _loss(*short, candidates, scale, chunk)
    return total


def _loss(queries: Tensor, products: Tensor, candidates: Candidates, scale: Tensor, chunk: int) -> Tensor:
    cosine, negatives = _LogSumExp.apply(  # type: ignore[no-untyped-call]
        queries,
        products,
        scale,
        candidates.positive,
        candidates.masked_query,
        candidates.masked_product,
        chunk,
        *candidates.weights,
    )
    positive = scale * cosine - candidates.positive_log_q
    loss: Tensor = (torch.logaddexp(positive, negatives) - positive).mean(1).sum()
    return loss


class _LogSumExp(torch.autograd.Function):
    """The cosines with the positives `[B]`, and `[T, B]`: log of the sum over each term's candidates of
    exp(scale * cosine + weight), the masked left out. Both at once: one gradient the size of the products, not three.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        products: Tensor,
        scale: Tensor,
        positive: Tensor,
        masked_query: Tensor,
        masked_product: Tensor,
        chunk: int,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        sums = [queries.new_full((len(queries),), -math.inf) for _ in weights]
        for start, logits in _logits(queries, products, scale, masked_query, masked_product, chunk, weights):
            for term, weight in enumerate(weights):
                part = weight[start : start + chunk]
                if len(part):
                    seen = torch.logsumexp(logits[:, : len(part)] + part, 1)
                    sums[term] = torch.logaddexp(sums[term], seen)
        out = torch.stack(sums)
        ctx.save_for_backward(queries, products, scale, positive, masked_query, masked_product, out, *weights)
        ctx.chunk = chunk
        return (queries * products[positive]).sum(1), out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, products, scale, positive, masked_query, masked_product, out, *weights = ctx.saved_tensors
        chunk: int = ctx.chunk
        d_positive, d_sums = gradients
        finite = torch.where(out.isinf(), 0.0, out)  # a query without any candidate: exp(-inf - 0) is the 0 it must be
        d_queries, d_products, d_scale = torch.zeros_like(queries), torch.zeros_like(products), torch.zeros_like(scale)
        for start, logits in _logits(queries, products, scale, masked_query, masked_product, chunk, weights):
            d_logits = torch.zeros_like(logits)
            for gradient, weight, total in zip(d_sums, weights, finite, strict=True):
                part = weight[start : start + chunk]
                if len(part):
                    share = (logits[:, : len(part)] + part - total[:, None]).exp_()
                    d_logits[:, : len(part)] += share.mul_(gradient[:, None])
            here = products[start : start + logits.shape[1]]
            d_cosine = d_logits @ here
            d_queries += scale * d_cosine
            d_scale += (d_cosine * queries).sum()
            d_products[start : start + len(here)] = scale * (d_logits.T @ queries)
        d_queries += d_positive[:, None] * products[positive]
        d_products.index_add_(0, positive, d_positive[:, None] * queries)
        return (d_queries, d_products, d_scale, *[None] * (4 + len(weights)))


def _logits(
    queries: Tensor,
    products: Tensor,
    scale: Tensor,
    masked_query: Tensor,
    masked_product: Tensor,
    chunk: int,
    weights: Sequence[Tensor],
) -> Iterator[tuple[int, Tensor]]:
    """The scaled cosines `[B, <= chunk]` with the masked at -inf, from each chunk's first product on."""
    longest = max(map(len, weights), default=0)
    starts = torch.arange(0, longest + chunk, chunk, device=masked_product.device)
    borders = torch.searchsorted(masked_product, starts).tolist()
    for number, start in enumerate(range(0, longest, chunk)):
        logits = scale * (queries @ products[start : min(start + chunk, longest)].T)
        masked = slice(borders[number], borders[number + 1])
        inside = masked_product[masked] < longest
        logits[masked_query[masked][inside], masked_product[masked][inside] - start] = -math.inf
        yield start, logits
