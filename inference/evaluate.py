"""Recall@10 per task and catalogue coverage, as the paper measures them (§4.1), against the whole catalogue."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from inference.dataset import Pairs
from inference.errors import InputError
from inference.inputs import FloatArray

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
_CHUNK = 1024  # pairs scored against the whole catalogue at once


class Evaluation(msgspec.Struct, frozen=True):
    """`recall` by task ("image/click"), `mean_recall` over the tasks that have pairs (0 without any), `coverage`: the
    share of the catalogue that is among the best `k` of some query.
    """

    recall: dict[str, float]
    pairs: dict[str, int]
    mean_recall: float
    coverage: float


def evaluate(
    products: FloatArray, queries: FloatArray, pairs: Pairs, *, k: int = 10, among: BoolArray | None = None
) -> Evaluation:
    """Engagement-weighted Recall@k on the held-out pairs.

    A pair counts if fewer than `k` other products score at least as high as the engaged one: ties count against it, so
    that a query of zeros, which says nothing, finds nothing. The query product itself is no candidate of an image
    query.

    Args:
        products: `[P, 256]` unit vectors, zeros for a product that the model cannot place.
        queries: `[Q, 256]` in the order of `pairs.queries`.
        among: `[P]`, the products that compete; without it the whole catalogue. Coverage is their share then.

    Raises:
        InputError: NaN or infinity among the vectors.
    """
    if not (np.isfinite(products).all() and np.isfinite(queries).all()):
        raise InputError("product or query vectors hold NaN or infinity: the model that made them is broken")
    rows = np.flatnonzero(pairs.held_out)
    hit = np.zeros(len(rows), bool)
    retrieved = np.zeros(len(products), bool)
    speaks = np.any(queries != 0, axis=1)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        query, product = pairs.query[part], pairs.product[part]
        scores = queries[query] @ products.T
        own = pairs.query_product[query]
        scores[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        if among is not None:
            scores[:, ~among] = -np.inf
        target = scores[np.arange(len(part)), product]
        hit[start : start + _CHUNK] = (scores >= target[:, None]).sum(1) - 1 < k
        best = np.argpartition(-scores, min(k, len(products)) - 1, axis=1)[:, :k]
        retrieved[best[speaks[query]].ravel()] = True
    recall: dict[str, float] = {}
    counts: dict[str, int] = {}
    for number, task in enumerate(pairs.tasks):
        of_task = pairs.task[rows] == number
        if not of_task.any():
            continue
        weight = pairs.count[rows][of_task]
        recall[task] = float((hit[of_task] * weight).sum() / weight.sum())
        counts[task] = int(of_task.sum())
    mean = float(np.mean(list(recall.values()))) if recall else 0.0
    return Evaluation(recall, counts, mean, float(retrieved[slice(None) if among is None else among].mean()))
