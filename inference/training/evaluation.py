"""Recall@k per task and catalogue coverage, as the paper measures them (section 4.1), against the whole catalogue."""

from __future__ import annotations

import msgspec
import numpy as np
import torch

from inference.arrays import BoolArray, Float32Array, FloatArray, Int64Array
from inference.errors import InputError
from inference.queries import SearchQueries
from inference.training.config import TrainConfig
from inference.training.dataset import TrainingSet
from inference.training.encoders import Encoder
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs

_CHUNK = 1024  # pairs scored against the whole catalogue at once


class Evaluation(msgspec.Struct, frozen=True):
    """The quality of one model on the held-out pairs."""

    recall: dict[str, float]  # Recall@k by task ("image/click")
    pairs: dict[str, int]  # number of held-out pairs by task
    mean_recall: float  # over the tasks that have pairs; 0 without any
    coverage: float  # share of the catalogue that is among the best k products of some query


class RunEvaluation(msgspec.Struct, frozen=True):
    """A run's model and the *Sum* baseline on the run's held-out pairs."""

    model: str  # a value of `TrainConfig.model`
    k: int
    itemsage: Evaluation
    sum: Evaluation


def evaluate(
    products: FloatArray, queries: FloatArray, pairs: Pairs, *, k: int = 10, among: BoolArray | None = None
) -> Evaluation:
    """Compute the engagement-weighted Recall@k on the held-out pairs.

    A pair counts if fewer than `k` other products score at least as high as the engaged product. Ties count against the
    pair: a zero query, which says nothing, finds nothing. The product of an image query is not a candidate for it.

    Args:
        products: `[P, 256]` unit vectors; zeros for a product that the model cannot embed.
        queries: `[Q, 256]` in the order of `pairs.queries`.
        pairs: The pairs.
        k: Number of products that a query may find.
        among: `[P]`, which products are candidates; None for the whole catalogue. The coverage is their share.

    Raises:
        InputError: If a vector has NaN or infinity.
    """
    if not (np.isfinite(products).all() and np.isfinite(queries).all()):
        raise InputError("product or query vectors hold NaN or infinity: the model that made them is broken")
    hit, retrieved = _ranks(products, queries, pairs, k, among)
    recall, counts = _recall_by_task(hit, pairs)
    mean = float(np.mean(list(recall.values()))) if recall else 0.0
    return Evaluation(recall, counts, mean, float(retrieved[slice(None) if among is None else among].mean()))


def _ranks(
    products: FloatArray, queries: FloatArray, pairs: Pairs, k: int, among: BoolArray | None
) -> tuple[BoolArray, BoolArray]:
    """Return which held-out pairs were hit, and which products `[P]` some query retrieved."""
    rows = np.flatnonzero(pairs.held_out)
    hit = np.zeros(len(rows), bool)
    retrieved = np.zeros(len(products), bool)
    nonzero = np.any(queries != 0, axis=1)
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
        retrieved[best[nonzero[query]].ravel()] = True
    return hit, retrieved


def _recall_by_task(hit: BoolArray, pairs: Pairs) -> tuple[dict[str, float], dict[str, int]]:
    """Return recall and number of held-out pairs of each task that has any."""
    rows = np.flatnonzero(pairs.held_out)
    recall: dict[str, float] = {}
    counts: dict[str, int] = {}
    for number, task in enumerate(pairs.tasks):
        of_task = pairs.task[rows] == number
        if not of_task.any():
            continue
        weight = pairs.count[rows][of_task]
        recall[task] = float((hit[of_task] * weight).sum() / weight.sum())
        counts[task] = int(of_task.sum())
    return recall, counts


def evaluate_encoder(
    encoder: Encoder, data: TrainingSet, search: SearchQueries, config: TrainConfig, k: int = 10
) -> RunEvaluation:
    """Evaluate an encoder and the *Sum* baseline on the held-out pairs of a training set."""
    queries = query_vectors(data.pairs, data.packed, search)
    embedded = embed_all(encoder, data.packed, images=config.images, text=config.text)
    return RunEvaluation(
        config.model,
        k,
        itemsage=evaluate(embedded, queries, data.pairs, k=k),
        sum=evaluate(data.packed.summed_images(), queries, data.pairs, k=k),
    )


def query_vectors(pairs: Pairs, packed: PackedProducts, search: SearchQueries) -> Float32Array:
    """Return the frozen vectors `[Q, 256]` of the distinct queries, in the order of `pairs.queries`."""
    main, _ = packed.main_images()
    out = np.zeros((len(pairs.queries), main.shape[1]), np.float32)
    texts = [i for i, (kind, _) in enumerate(pairs.queries) if kind == "search"]
    images = [i for i, (kind, _) in enumerate(pairs.queries) if kind == "image"]
    if texts:
        out[texts] = search([pairs.queries[i][1] for i in texts])
    if images:
        out[images] = main[pairs.query_product[images]]
    return out


def embed_all(
    encoder: Encoder, packed: PackedProducts, batch: int = 256, *, images: bool = True, text: bool = True
) -> Float32Array:
    """Return the embeddings `[P, 256]` of all products.

    Args:
        encoder: The encoder, on the CPU.
        packed: The products.
        batch: Number of products embedded at once.
        images: Whether to include the images.
        text: Whether to include the text.
    """

    def embed(rows: Int64Array) -> torch.Tensor:
        vectors: torch.Tensor = encoder(*packed.batch(rows, images=images, text=text))
        return vectors

    encoder.eval()
    with torch.inference_mode():
        starts = range(0, len(packed), batch)
        parts = [embed(np.arange(start, min(start + batch, len(packed)))) for start in starts]
    out: Float32Array = torch.cat(parts).numpy()
    return out
