"""ItemSage's loss: L_pos + L_neg, computed separately and summed (section 3.4), over distinct products and in chunks.

L_pos takes the other products of the batch as negatives, L_neg random products of the catalogue. Both are sampled
softmaxes with logQ correction (see `losses`). A product that is drawn m times as a negative appears once, with log m
added to its logit. The sum stays the same, and all terms of the loss read the same matrix of distinct products. The
softmax runs over that matrix in chunks and computes the logits again for the gradient, so that memory does not grow
with queries x negatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 4096  # candidates whose logits are in memory at once


class SampledCandidates(NamedTuple):
    """What the loss needs to know about a batch of B queries and its P distinct products.

    Attributes:
        positive: `[B]` int, which of the products each query led to.
        positive_log_q: `[B]`, log P(product | query), the correction of the positive.
        weights: One tensor `[<= P]` per term of the loss: log m - log Q of each product (m: number of draws; Q:
            expected number of draws), -inf for a product that is not a candidate of the term. Products beyond the end
            of the tensor are not candidates either.
        masked_query: `[M]` int, the queries of the pairs that are not negatives.
        masked_product: `[M]` int, the products of these pairs, in ascending order.
    """

    positive: Tensor
    positive_log_q: Tensor
    weights: Sequence[Tensor]
    masked_query: Tensor
    masked_product: Tensor

    def to(self, device: torch.device) -> SampledCandidates:
        """Return the candidates on another device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return SampledCandidates(
            moved(self.positive),
            moved(self.positive_log_q),
            [moved(w) for w in self.weights],
            moved(self.masked_query),
            moved(self.masked_product),
        )


def itemsage_loss(
    queries: Tensor,
    products: Tensor,
    candidates: SampledCandidates,
    scale: Tensor,
    *,
    prefixes: Sequence[int] = (),
    prefix_weight: float = 0.05,
    chunk: int = CHUNK,
) -> Tensor:
    """Return the loss: -log p(positive | query), averaged over the queries and summed over the terms.

    Args:
        queries: `[B, D]` unit vectors.
        products: `[P, D]` unit vectors of the distinct products of the batch.
        candidates: See `SampledCandidates`.
        scale: Factor of the cosines (see `Temperature`).
        prefixes: Lengths of prefixes. The loss is also computed on the first so many dimensions, normalised to unit
            length (Matryoshka representations, Kusupati et al., 2022).
        prefix_weight: Weight of the loss of each prefix.
        chunk: Number of candidates whose logits are in memory at once.
    """
    total = _loss(queries, products, candidates, scale, chunk)
    for size in prefixes:
        short = F.normalize(queries[:, :size], dim=1), F.normalize(products[:, :size], dim=1)
        total = total + prefix_weight * _loss(*short, candidates, scale, chunk)
    return total


def _loss(queries: Tensor, products: Tensor, candidates: SampledCandidates, scale: Tensor, chunk: int) -> Tensor:
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
    """Computes the cosines with the positives, and the log-sum-exp over each term's candidates.

    The outputs are `[B]` and `[T, B]`; the second is the log of the sum of exp(scale * cosine + weight) without the
    masked pairs. Computing both at once needs one gradient of the size of the products instead of three.
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
                    chunk_sum = torch.logsumexp(logits[:, : len(part)] + part, 1)
                    sums[term] = torch.logaddexp(sums[term], chunk_sum)
        out = torch.stack(sums)
        ctx.save_for_backward(queries, products, scale, positive, masked_query, masked_product, out, *weights)
        ctx.chunk = chunk
        return (queries * products[positive]).sum(1), out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, products, scale, positive, masked_query, masked_product, out, *weights = ctx.saved_tensors
        chunk: int = ctx.chunk
        d_positive, d_sums = gradients
        finite = torch.where(out.isinf(), 0.0, out)  # a query without candidates: exp(-inf - 0) is 0, as it must be
        d_queries, d_products, d_scale = torch.zeros_like(queries), torch.zeros_like(products), torch.zeros_like(scale)
        for start, logits in _logits(queries, products, scale, masked_query, masked_product, chunk, weights):
            d_logits = torch.zeros_like(logits)
            for gradient, weight, total in zip(d_sums, weights, finite, strict=True):
                part = weight[start : start + chunk]
                if len(part):
                    share = (logits[:, : len(part)] + part - total[:, None]).exp_()
                    d_logits[:, : len(part)] += share.mul_(gradient[:, None])
            chunk_products = products[start : start + logits.shape[1]]
            d_cosine = d_logits @ chunk_products
            d_queries += scale * d_cosine
            d_scale += (d_cosine * queries).sum()
            d_products[start : start + len(chunk_products)] = scale * (d_logits.T @ queries)
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
    """Yield each chunk's first product and its scaled cosines `[B, <= chunk]`, -inf for masked pairs."""
    longest = max(map(len, weights), default=0)
    starts = torch.arange(0, longest + chunk, chunk, device=masked_product.device)
    borders = torch.searchsorted(masked_product, starts).tolist()
    for number, start in enumerate(range(0, longest, chunk)):
        logits = scale * (queries @ products[start : min(start + chunk, longest)].T)
        masked = slice(borders[number], borders[number + 1])
        inside = masked_product[masked] < longest
        logits[masked_query[masked][inside], masked_product[masked][inside] - start] = -math.inf
        yield start, logits
