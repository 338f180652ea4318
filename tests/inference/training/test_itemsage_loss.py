"""The chunked loss over distinct products against a float64 loop over every drawn negative."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from inference.training.itemsage_loss import SampledCandidates, itemsage_loss

B, P, D = 7, 23, 6
IN_BATCH = 9  # the first so many products occur in the batch


class Case:
    """Queries, products, and the negatives of two terms as they were drawn, one by one."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.queries = F.normalize(torch.from_numpy(rng.normal(size=(B, D))), dim=1)
        self.products = F.normalize(torch.from_numpy(rng.normal(size=(P, D))), dim=1)
        self.scale = torch.tensor(6.5, dtype=torch.float64)
        self.positive = torch.from_numpy(rng.integers(0, IN_BATCH, B))
        self.positive_log_q = torch.from_numpy(rng.normal(size=B))
        self.drawn = [rng.integers(0, IN_BATCH, 30), rng.integers(0, P, 40)]
        self.log_q = [rng.normal(size=IN_BATCH), rng.normal(size=P)]
        masked = rng.random((B, P)) < 0.2
        masked[np.arange(B), self.positive.numpy()] = True
        self.masked = masked

    def candidates(self, dtype: torch.dtype = torch.float64) -> SampledCandidates:
        product, query = np.nonzero(self.masked.T)
        with np.errstate(divide="ignore"):
            weights = [
                np.log(np.bincount(drawn, minlength=len(log_q))) - log_q
                for drawn, log_q in zip(self.drawn, self.log_q, strict=True)
            ]
        return SampledCandidates(
            self.positive,
            self.positive_log_q.to(dtype),
            [torch.from_numpy(w).to(dtype) for w in weights],
            torch.from_numpy(query.copy()),
            torch.from_numpy(product.copy()),
        )

    def slow(self, terms: Sequence[int] = (0, 1), size: int = D) -> float:
        """-log of the positive's share of the sum, one query and one drawn negative after the other."""
        queries, products = self.queries[:, :size].tolist(), self.products[:, :size].tolist()

        def cosine(a: list[float], b: list[float]) -> float:
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            return dot / math.hypot(*a) / math.hypot(*b)

        total = 0.0
        for term in terms:
            for i in range(B):
                p = int(self.positive[i])
                positive = math.exp(float(self.scale) * cosine(queries[i], products[p]) - float(self.positive_log_q[i]))
                others = 0.0
                for j in self.drawn[term].tolist():
                    if not self.masked[i, j]:
                        others += math.exp(float(self.scale) * cosine(queries[i], products[j]) - self.log_q[term][j])
                total += -math.log(positive / (positive + others)) / B
        return total


@pytest.fixture
def case() -> Case:
    return Case()


@pytest.mark.parametrize("chunk", [1, 4, 8, 23, 1000])
def test_it_equals_the_slow_loss_for_every_chunk_size(case: Case, chunk: int) -> None:
    got = itemsage_loss(case.queries, case.products, case.candidates(), case.scale, chunk=chunk)
    assert got.item() == pytest.approx(case.slow(), rel=1e-12)


@pytest.mark.parametrize("term", [0, 1])
def test_each_term_alone_is_the_slow_loss(case: Case, term: int) -> None:
    alone = case.candidates()._replace(weights=case.candidates().weights[term : term + 1])
    got = itemsage_loss(case.queries, case.products, alone, case.scale, chunk=5)
    assert got.item() == pytest.approx(case.slow([term]), rel=1e-12)


def test_prefixes_add_the_loss_of_the_first_dimensions(case: Case) -> None:
    got = itemsage_loss(
        case.queries, case.products, case.candidates(), case.scale, prefixes=[2, 4], prefix_weight=0.3, chunk=5
    )
    assert got.item() == pytest.approx(case.slow() + 0.3 * (case.slow(size=2) + case.slow(size=4)), rel=1e-12)


def test_single_precision_is_close(case: Case) -> None:
    got = itemsage_loss(
        case.queries.float(), case.products.float(), case.candidates(torch.float32), case.scale.float(), chunk=5
    )
    assert got.item() == pytest.approx(case.slow(), rel=1e-5)


@pytest.mark.parametrize("terms", [slice(0, 2), slice(0, 1), slice(1, 2)], ids=["both", "in-batch", "random"])
def test_its_gradients_are_those_of_finite_differences(case: Case, terms: slice) -> None:
    """The in-batch term alone ends before the products do."""
    case.masked[2] = True  # a query for which no candidate is left

    def loss(queries: torch.Tensor, products: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        candidates = case.candidates()._replace(weights=case.candidates().weights[terms])
        return itemsage_loss(queries, products, candidates, scale, prefixes=[3], chunk=5)

    inputs = [t.clone().requires_grad_(True) for t in (case.queries, case.products, case.scale)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_with_everything_masked_there_is_nothing_to_learn(case: Case) -> None:
    case.masked[:] = True
    products = case.products.clone().requires_grad_(True)
    loss = itemsage_loss(case.queries, products, case.candidates(), case.scale, chunk=5)
    loss.backward()
    assert loss.item() == 0.0
    assert not products.grad.any()


_PEAK = """
import resource, sys, torch
from inference.training.itemsage_loss import SampledCandidates, itemsage_loss
torch.set_num_threads(1)
B, P = 512, int(sys.argv[1])
products = torch.nn.functional.normalize(torch.randn(P, 16), dim=1).requires_grad_(True)
empty = torch.zeros(0, dtype=torch.int64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
candidates = SampledCandidates(torch.arange(B), torch.zeros(B), [torch.zeros(B), torch.zeros(P)], empty, empty)
itemsage_loss(torch.randn(B, 16), products, candidates, torch.tensor(10.0)).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_queries_times_products() -> None:
    """One matrix of all logits would take 256 MiB for the larger case, 16 MiB for the smaller."""

    def peak_mib(products: int) -> float:
        # Freed blocks go back at once: otherwise the allocator's habits are measured, some 80 MiB of them.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, str(products)],
            capture_output=True, text=True, check=True, timeout=120, env=env,
        )  # fmt: skip
        return int(done.stdout) / 1024

    assert peak_mib(131_072) - peak_mib(8_192) < 64
