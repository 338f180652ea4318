"""Draw training batches: pairs, random products, and how often each is expected (logQ).

All tasks share every batch with fixed quotas. Count-min sketches of the draws themselves estimate the frequencies: one
of the positives and one of the random negatives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.arrays import Float64Array, Int64Array
from inference.errors import InputError
from inference.training.config import TrainConfig
from inference.training.itemsage_loss import SampledCandidates
from inference.training.pairs import Pairs
from inference.training.sketch import CountMinSketch


class TrainingBatch(NamedTuple):
    """The B pairs of one step, with their negatives."""

    query: Int64Array  # [B], of the pairs
    product: Int64Array  # [B], of the pairs
    negatives: Int64Array  # [N] random products, as drawn
    products: Int64Array  # [P] distinct products of both; those of the pairs come first
    candidates: SampledCandidates

    def part(self, rank: int, size: int) -> tuple[Int64Array, SampledCandidates]:
        """Return one process's part of the queries, with its candidates among all products.

        Args:
            rank: Number of the process.
            size: Number of processes.
        """
        mine = self.candidates.masked_query % size == rank
        return self.query[rank::size], self.candidates._replace(
            positive=self.candidates.positive[rank::size],
            positive_log_q=self.candidates.positive_log_q[rank::size],
            masked_query=self.candidates.masked_query[mine] // size,
            masked_product=self.candidates.masked_product[mine],
        )


class PairSampler:
    """Draws the batches. Its state can be saved and restored: equal states draw equal batches.

    Args:
        pairs: Training and held-out pairs.
        products: Number of products of the catalogue.
        config: Batch size, tasks and loss.
        rng: Draws the pairs and the random products.

    Raises:
        InputError: If a task with a share has no pairs, or the batch is smaller than the number of tasks.
    """

    def __init__(self, pairs: Pairs, products: int, config: TrainConfig, rng: np.random.Generator) -> None:
        self._rng, self._products, self._config, self._pairs = rng, products, config, pairs
        self._tasks, shares = _tasks(pairs, config)
        self._quotas = _quotas(shares, config.batch)
        rows = np.concatenate([rows for rows, _ in self._tasks])
        self._engaged = np.unique(pairs.query[rows] * products + pairs.product[rows])
        self._engaged_starts = np.searchsorted(self._engaged, np.arange(len(pairs.queries) + 1) * products)
        self._place = np.full(products, -1, np.int64)  # of each product in the current batch; -1 if it is not in it
        self._sketches = {
            "positives": CountMinSketch.for_keys(products, seed=config.seed),
            "random": CountMinSketch.for_keys(products, seed=config.seed + 1),
            "queries": CountMinSketch.for_keys(len(pairs.queries), seed=config.seed + 2),
            "pairs": CountMinSketch.for_keys(len(self._engaged), seed=config.seed + 3),
        }
        # The first batches already need frequencies: count enough draws first that each product was seen.
        warm_up = min(2**22, max(2**16, 32 * products))
        for _ in range(math.ceil(warm_up / 2**18)):
            self._count(
                *self._draw(math.ceil(min(warm_up, 2**18) / config.batch)),
                rng.integers(0, products, min(warm_up, 2**18)),
            )

    def draw(self) -> TrainingBatch:
        """Draw the next batch."""
        query, product = self._draw(1)
        negatives = self._rng.integers(0, self._products, self._config.random_negatives)
        self._count(query, product, negatives)
        own, positive, times = np.unique(product, return_inverse=True, return_counts=True)
        other, other_times = np.unique(negatives, return_counts=True)
        new = ~np.isin(other, own, assume_unique=True)
        products = np.concatenate([own, other[new]])
        self._place[products] = np.arange(len(products))
        random_times = np.zeros(len(products))
        random_times[self._place[other]] = other_times
        masked_query, masked_product = self._masked(query)
        self._place[products] = -1
        log_q = self._positive_log_q(query, product) if self._config.log_q else np.zeros(len(query))
        candidates = SampledCandidates(
            torch.from_numpy(positive),
            _float(log_q),
            [_float(w) for w in self._weights(products, times.astype(np.float64), random_times)],
            torch.from_numpy(masked_query),
            torch.from_numpy(masked_product),
        )
        return TrainingBatch(query, product, negatives, products, candidates)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the sketches as tensors, and totals and the random generator as data that JSON can hold."""
        tables = {name: torch.from_numpy(sketch.table) for name, sketch in self._sketches.items()}
        totals = {name: sketch.total for name, sketch in self._sketches.items()}
        return tables, {"totals": totals, "rng": self._rng.bit_generator.state}

    def restore(self, tables: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, sketch in self._sketches.items():
            sketch.table[:] = tables[name].numpy()
            sketch.total = plain["totals"][name]
        self._rng.bit_generator.state = plain["rng"]

    def _draw(self, batches: int) -> tuple[Int64Array, Int64Array]:
        """Draw queries and products of so many batches, task after task; within a task by the pairs' counts."""
        rows = np.concatenate(
            [
                of_task[np.searchsorted(total, self._rng.integers(0, total[-1], batches * quota), side="right")]
                for (of_task, total), quota in zip(self._tasks, self._quotas, strict=True)
            ]
        )
        return self._pairs.query[rows], self._pairs.product[rows]

    def _count(self, query: Int64Array, product: Int64Array, negatives: Int64Array) -> None:
        self._sketches["positives"].add(product)
        self._sketches["random"].add(negatives)
        self._sketches["queries"].add(query)
        self._sketches["pairs"].add(query * self._products + product)

    def _positive_log_q(self, query: Int64Array, product: Int64Array) -> Float64Array:
        """Return log P(product | query) = log count(query, product) - log count(query)."""
        pair = self._sketches["pairs"].log_share(query * self._products + product)
        out: Float64Array = np.minimum(0.0, pair - self._sketches["queries"].log_share(query))
        return out

    def _weights(self, products: Int64Array, times: Float64Array, random_times: Float64Array) -> list[Float64Array]:
        """Return `SampledCandidates.weights`: the log of the number of draws minus the log of the expected number."""
        own = products[: len(times)]
        in_batch = self._config.batch * np.exp(self._sketches["positives"].log_share(own))
        at_random = self._config.random_negatives * np.exp(self._sketches["random"].log_share(products))
        all_times = random_times.copy()
        all_times[: len(times)] += times
        # A random product could also have come with a pair.
        all_expected = at_random + self._config.batch * self._sketches["positives"].share(products)
        terms: dict[str, list[tuple[Float64Array, Float64Array]]] = {
            "separate": [(times, in_batch), (random_times, at_random)],
            "shared": [(all_times, all_expected)],
            "in_batch": [(times, in_batch)],
            "random": [(random_times, at_random)],
        }
        with np.errstate(divide="ignore"):
            return [
                np.log(drawn) - (np.log(expected) if self._config.log_q else 0.0)
                for drawn, expected in terms[self._config.loss]
            ]

    def _masked(self, query: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the pairs that are not negatives: row in the batch and place among its products, sorted by place.

        These are the products that the query led to (also the positive), and the product whose image is the query.
        """
        first = self._engaged_starts[query]
        many = self._engaged_starts[query + 1] - first
        row = np.repeat(np.arange(len(query)), many)
        at = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
        engaged = self._engaged[at] % self._products
        image = np.flatnonzero(self._pairs.query_product[query] >= 0)
        rows = np.concatenate([row, image])
        places = self._place[np.concatenate([engaged, self._pairs.query_product[query[image]]])]
        order = np.flatnonzero(places >= 0)
        order = order[np.argsort(places[order], kind="stable")]
        return rows[order], places[order]


def _tasks(pairs: Pairs, config: TrainConfig) -> tuple[list[tuple[Int64Array, Int64Array]], list[float]]:
    """Return the rows of each trained task's pairs with their cumulative counts, and the tasks' shares."""
    rows = pairs.training
    tasks: list[tuple[Int64Array, Int64Array]] = []
    shares: list[float] = []
    for number, name in enumerate(pairs.tasks):
        of_task = rows[pairs.task[rows] == number]
        # With equal shares the model would memorise the few pairs of rare tasks; with proportional shares it would
        # hardly see them.
        share = pairs.count[of_task].sum() ** 0.5 if config.tasks is None else config.tasks[name]
        if share and len(of_task):
            tasks.append((of_task, np.cumsum(pairs.count[of_task])))
            shares.append(share)
        elif share and config.tasks is not None:
            raise InputError(f"task {name!r} has no pair to train on; collect some, or set its share to 0")
    return tasks, shares


def _quotas(shares: list[float], batch: int) -> list[int]:
    """Return integers in these proportions, each at least 1, that sum to the batch (largest remainders)."""
    if batch < len(shares):
        raise InputError(f"batch ({batch}) must be at least the number of tasks ({len(shares)})")
    exact = np.array(shares) / sum(shares) * batch
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: batch - quotas.sum()]] += 1
    for task in np.flatnonzero(quotas == 0):
        quotas[quotas.argmax()] -= 1
        quotas[task] = 1
    return [int(q) for q in quotas]


def _float(values: Float64Array) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
