"""Recall@10 per task and catalogue coverage, as the paper measures them (§4.1), against the whole catalogue."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from inference.dataset import TASKS, Pairs
from inference.inputs import Float32Array


class Evaluation(msgspec.Struct, frozen=True):
    """`recall` by task ("image/click"), `mean_recall` over the tasks that have pairs, `coverage` of the catalogue."""

    recall: dict[str, float]
    pairs: dict[str, int]
    mean_recall: float
    coverage: float


def evaluate(products: Float32Array, queries: Float32Array, pairs: Pairs, *, k: int = 10) -> Evaluation:
    """Engagement-weighted Recall@k on the held-out pairs.

    A pair counts if fewer than `k` other products score at least as high as the engaged one (ties count against it;
    the query product itself is no candidate of an image query).

    Args:
        products: `[P, 256]` unit vectors; queries: `[Q, 256]` in the order of `pairs.queries`.
    """
    rows = np.flatnonzero(pairs.held_out)
    hit = np.zeros(len(rows), bool)
    retrieved = np.zeros(len(products), bool)
    own = _query_products(pairs)
    for start in range(0, len(rows), 1024):
        part = rows[start : start + 1024]
        scores = queries[pairs.query[part]] @ products.T
        asked = own[pairs.query[part]]
        scores[np.flatnonzero(asked >= 0), asked[asked >= 0]] = -np.inf
        target = scores[np.arange(len(part)), pairs.product[part]]
        hit[start : start + 1024] = (scores >= target[:, None]).sum(1) - 1 < k
        retrieved[np.argpartition(-scores, min(k, len(products) - 1), axis=1)[:, :k].ravel()] = True
    recall: dict[str, float] = {}
    counts: dict[str, int] = {}
    for number, (kind, action) in enumerate(TASKS):
        of_task = pairs.task[rows] == number
        if not of_task.any():
            continue
        weight = pairs.count[rows][of_task]
        recall[f"{kind}/{action}"] = float((hit[of_task] * weight).sum() / weight.sum())
        counts[f"{kind}/{action}"] = int(of_task.sum())
    mean = float(np.mean(list(recall.values()))) if recall else 0.0
    return Evaluation(recall, counts, mean, float(retrieved.mean()))


def _query_products(pairs: Pairs) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each query the product whose image it is, -1 for a search."""
    return np.array([pairs.product_index.get(q, -1) if kind == "image" else -1 for kind, q in pairs.queries], np.int64)
