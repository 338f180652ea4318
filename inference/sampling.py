"""Batches of training: which pairs, which random products, and how often each is expected there (logQ).

All tasks share every batch with fixed quotas. Frequencies are estimated from the stream of draws itself, by count-min
sketches: one stream of positives, one of random negatives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.dataset import IntArray, Pairs
from inference.errors import InputError
from inference.losses import Candidates
from inference.sketch import CountMinSketch
from inference.train_config import TrainConfig

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


class TrainingBatch(NamedTuple):
    """One step's B pairs: `query` and `product` `[B]`, `negatives` `[N]` as drawn, `products` `[P]` the distinct ones
    of both with those of the pairs in front, and what the loss has to know about them.
    """

    query: IntArray
    product: IntArray
    negatives: IntArray
    products: IntArray
    candidates: Candidates

    def part(self, rank: int, size: int) -> tuple[IntArray, Candidates]:
        """The queries of one of `size` processes, and its candidates: still all products."""
        mine = self.candidates.masked_query % size == rank
        return self.query[rank::size], self.candidates._replace(
            positive=self.candidates.positive[rank::size],
            positive_log_q=self.candidates.positive_log_q[rank::size],
            masked_query=self.candidates.masked_query[mine] // size,
            masked_product=self.candidates.masked_product[mine],
        )


class PairSampler:
    """Draws the batches. Its whole state can be saved and restored: equal states draw equal batches.

    Raises:
        InputError: a task with a share has no pairs, or the batch is smaller than the number of tasks.
    """

    def __init__(self, pairs: Pairs, products: int, config: TrainConfig, rng: np.random.Generator) -> None:
        self._rng, self._products, self._config, self._pairs = rng, products, config, pairs
        self._tasks, shares = _tasks(pairs, config)
        self._quotas = _quotas(shares, config.batch)
        rows = np.concatenate([rows for rows, _ in self._tasks])
        self._engaged = np.unique(pairs.query[rows] * products + pairs.product[rows])
        self._engaged_starts = np.searchsorted(self._engaged, np.arange(len(pairs.queries) + 1) * products)
        self._place = np.full(products, -1, np.int64)  # of a product in the batch at hand
        self._sketches = {
            "positives": CountMinSketch.for_keys(products, seed=config.seed),
            "random": CountMinSketch.for_keys(products, seed=config.seed + 1),
            "queries": CountMinSketch.for_keys(len(pairs.queries), seed=config.seed + 2),
            "pairs": CountMinSketch.for_keys(len(self._engaged), seed=config.seed + 3),
        }
        # The first batches already need frequencies: let so much of the streams pass that each product was seen.
        unseen = min(2**22, max(2**16, 32 * products))
        for _ in range(math.ceil(unseen / 2**18)):
            self._count(
                *self._draw(math.ceil(min(unseen, 2**18) / config.batch)),
                rng.integers(0, products, min(unseen, 2**18)),
            )

    def draw(self) -> TrainingBatch:
        """The next batch."""
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
        candidates = Candidates(
            torch.from_numpy(positive),
            _float(log_q),
            [_float(w) for w in self._weights(products, times.astype(np.float64), random_times)],
            torch.from_numpy(masked_query),
            torch.from_numpy(masked_product),
        )
        return TrainingBatch(query, product, negatives, products, candidates)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The sketches as tensors; totals and the random generator as plain data."""
        tables = {name: torch.from_numpy(sketch.table) for name, sketch in self._sketches.items()}
        totals = {name: sketch.total for name, sketch in self._sketches.items()}
        return tables, {"totals": totals, "rng": self._rng.bit_generator.state}

    def restore(self, tables: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Go on where the sampler that gave this `state` was."""
        for name, sketch in self._sketches.items():
            sketch.table[:] = tables[name].numpy()
            sketch.total = plain["totals"][name]
        self._rng.bit_generator.state = plain["rng"]

    def _draw(self, batches: int) -> tuple[IntArray, IntArray]:
        """Queries and products of so many batches, task after task; within a task by the pairs' counts."""
        rows = np.concatenate(
            [
                of_task[np.searchsorted(total, self._rng.integers(0, total[-1], batches * quota), side="right")]
                for (of_task, total), quota in zip(self._tasks, self._quotas, strict=True)
            ]
        )
        return self._pairs.query[rows], self._pairs.product[rows]

    def _count(self, query: IntArray, product: IntArray, negatives: IntArray) -> None:
        self._sketches["positives"].add(product)
        self._sketches["random"].add(negatives)
        self._sketches["queries"].add(query)
        self._sketches["pairs"].add(query * self._products + product)

    def _positive_log_q(self, query: IntArray, product: IntArray) -> FloatArray:
        """log P(product | query) = log count(query, product) - log count(query)."""
        pair = self._sketches["pairs"].log_share(query * self._products + product)
        out: FloatArray = np.minimum(0.0, pair - self._sketches["queries"].log_share(query))
        return out

    def _weights(self, products: IntArray, times: FloatArray, random_times: FloatArray) -> list[FloatArray]:
        """The weights of each term (`Candidates.weights`): log of times drawn less log of times expected."""
        own = products[: len(times)]
        in_batch = self._config.batch * np.exp(self._sketches["positives"].log_share(own))
        at_random = self._config.random_negatives * np.exp(self._sketches["random"].log_share(products))
        all_times = random_times.copy()
        all_times[: len(times)] += times
        # A product that came at random could also have come with a pair.
        all_expected = at_random + self._config.batch * self._sketches["positives"].share(products)
        terms: dict[str, list[tuple[FloatArray, FloatArray]]] = {
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

    def _masked(self, query: IntArray) -> tuple[IntArray, IntArray]:
        """Row of the batch and place among its products, for what is no negative: the products that the query engaged
        with (the positive itself included), and the product whose image the query is. Sorted by place.
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


def _tasks(pairs: Pairs, config: TrainConfig) -> tuple[list[tuple[IntArray, IntArray]], list[float]]:
    """Of each trained task: the rows of its pairs, their cumulated counts, and the task's share."""
    rows = pairs.training
    tasks: list[tuple[IntArray, IntArray]] = []
    shares: list[float] = []
    for number, name in enumerate(pairs.tasks):
        of_task = rows[pairs.task[rows] == number]
        # In equal parts the pairs of rare tasks would come up so often that they are learned by heart; in proportion
        # there would be next to none of them.
        share = pairs.count[of_task].sum() ** 0.5 if config.tasks is None else config.tasks[name]
        if share and len(of_task):
            tasks.append((of_task, np.cumsum(pairs.count[of_task])))
            shares.append(share)
        elif share and config.tasks is not None:
            raise InputError(f"task {name!r} has no pair to train on; collect some, or give it the share 0")
    return tasks, shares


def _quotas(shares: list[float], batch: int) -> list[int]:
    """Whole numbers in these proportions, at least 1 each, that sum to the batch (largest remainders)."""
    if batch < len(shares):
        raise InputError(f"batch ({batch}) must be at least the number of tasks ({len(shares)})")
    exact = np.array(shares) / sum(shares) * batch
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: batch - quotas.sum()]] += 1
    for task in np.flatnonzero(quotas == 0):
        quotas[quotas.argmax()] -= 1
        quotas[task] = 1
    return [int(q) for q in quotas]


def _float(values: FloatArray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
