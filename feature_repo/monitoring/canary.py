"""What changes for shoppers between two model versions, on a canary set: the same few products each time.

The vectors of two models need not lie in one space, so the distance between a product's two vectors says little. The
product's nearest neighbors within the set say what a shopper would see. They are compared between the versions, and
need no common space. The set is drawn by a hash of the ids, so that it hardly changes while the catalogue changes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import ProductEmbedding

SIZE: Final = 1_000
"""Products of a canary set."""
NEIGHBOURS: Final = 10
"""Nearest neighbors that are compared."""
_LISTED: Final = 10  # products whose neighbors changed most, by name
_BINS: Final = 20

Vectors = Mapping[str, NDArray[np.float32]]
"""Vectors [d] by product id."""
_Matrix = NDArray[np.float64]


class EmbeddingSource(Protocol):
    """What a comparison reads of a feature store."""

    def product_ids(self) -> Iterable[str]:
        """Yield the ids of all live products."""

    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> Mapping[str, ProductEmbedding]:
        """Read embeddings by id."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A product whose nearest neighbors changed.

    Attributes:
        product: The id.
        overlap: The share of its neighbors that stay.
        before: Ids of the neighbors by the old version, nearest first.
        after: Ids of the neighbors by the new version, nearest first.
    """

    product: str
    overlap: float
    before: list[str]
    after: list[str]


class CanaryDrift(msgspec.Struct, frozen=True, kw_only=True):
    """The drift between two model versions over the same products.

    Attributes:
        old: The old model version.
        new: The new model version.
        products: Products that have a vector in both versions.
        without_vector: Products of the set that lack a vector in one of them.
        centroid_shift: 1 - cosine of the two mean vectors, 0 to 2; it needs models of one space.
        old_concentration: Length of the old mean, 0 to 1; 1 if all vectors have one direction.
        new_concentration: Length of the new mean.
        similarities: Histogram of the cosine between a product's two vectors, from -1 to 1.
        neighbours: The number of nearest neighbors that are compared.
        overlap: The mean share of a product's nearest neighbors that stay; 1 if nothing changed.
        overlap_p10: The 10th percentile of that share.
        overlap_by_chance: The share that two unrelated models would have in common.
        overlaps: Products by the number of neighbors that stay: 0, 1, ... all.
        moved: The products whose neighbors changed most.
        map: For each product the old and the new vector on the two main axes of both, for a picture.
    """

    old: str
    new: str
    products: int
    without_vector: int
    centroid_shift: float
    old_concentration: float
    new_concentration: float
    similarities: list[int]
    neighbours: int
    overlap: float
    overlap_p10: float
    overlap_by_chance: float
    overlaps: list[int]
    moved: list[Moved]
    map: list[tuple[float, float, float, float]]


class CanaryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the drift; None sets no limit."""

    max_centroid_shift: float | None = None
    min_overlap: float | None = None


def choose(ids: Iterable[str], size: int = SIZE) -> list[str]:
    """Return the canary set: the ids of the `size` smallest hashes, so that one more product changes at most one."""
    return [id for _, id in heapq.nsmallest(size, ((crc32(id.encode()), id) for id in ids))]


def compare(store: EmbeddingSource, old: str, new: str, ids: Sequence[str] | None = None) -> CanaryDrift:
    """Compare two model versions.

    Args:
        store: The feature store.
        old: The old model version.
        new: The new model version.
        ids: The canary set; None for a set of the live products.

    Raises:
        UnknownModelVersionError: A model version has no view.
        InvalidFeatureError: Too few products have a vector in both versions.
    """
    chosen = list(dict.fromkeys(ids)) if ids is not None else choose(store.product_ids())
    before, after = (
        {id: row.vector for id, row in store.read_embeddings(version, chosen).items() if not row.deleted}
        for version in (old, new)
    )
    return drift(before, after, old=old, new=new, asked=len(chosen))


def drift(before: Vectors, after: Vectors, *, old: str, new: str, asked: int, k: int = NEIGHBOURS) -> CanaryDrift:
    """Compute the drift over the products that have a vector in both versions.

    Args:
        before: Vectors of the old version.
        after: Vectors of the new version.
        old: The old model version.
        new: The new model version.
        asked: The number of products of the set.
        k: The number of nearest neighbors to compare.

    Raises:
        InvalidFeatureError: Too few products have a vector in both versions.
    """
    ids = [id for id in before if id in after]
    if len(ids) < k + 2:
        raise InvalidFeatureError(
            f"{len(ids)} of the canary's {asked} products have a vector in both {old} and {new}: comparing neighbors "
            f"needs at least {k + 2}. Embed the catalogue under both, or give other products."
        )
    left, right = (_unit(np.stack([vectors[id] for id in ids])) for vectors in (before, after))
    neighbours = _nearest(left, k), _nearest(right, k)
    overlaps = np.array([len(set(a) & set(b)) / k for a, b in zip(*neighbours, strict=True)])
    means = left.mean(axis=0), right.mean(axis=0)
    lengths = [float(np.linalg.norm(mean)) for mean in means]
    one_space = left.shape[1] == right.shape[1]
    return CanaryDrift(
        old=old,
        new=new,
        products=len(ids),
        without_vector=asked - len(ids),
        centroid_shift=1 - float(means[0] @ means[1]) / max(lengths[0] * lengths[1], 1e-12) if one_space else 2.0,
        old_concentration=lengths[0],
        new_concentration=lengths[1],
        similarities=_histogram((left * right).sum(axis=1), -1, 1) if one_space else [],
        neighbours=k,
        overlap=float(overlaps.mean()),
        overlap_p10=float(np.quantile(overlaps, 0.1, method="lower")),
        overlap_by_chance=k / (len(ids) - 1),
        overlaps=np.bincount(np.rint(overlaps * k).astype(int), minlength=k + 1).tolist(),
        moved=_most_moved(ids, overlaps, *neighbours),
        map=_map(left, right) if one_space else [],
    )


def findings(drift: CanaryDrift, limits: CanaryLimits) -> list[str]:
    """Return what passes a limit, one sentence each."""
    sentences = []
    versions = f"{drift.old} to {drift.new}"
    if limits.max_centroid_shift is not None and drift.centroid_shift > limits.max_centroid_shift:
        sentences.append(
            f"{versions}: the centroid moved by {drift.centroid_shift:.3f}, over {limits.max_centroid_shift:g}"
        )
    if limits.min_overlap is not None and drift.overlap < limits.min_overlap:
        sentences.append(
            f"{versions}: products keep {drift.overlap:.1%} of their {drift.neighbours} nearest neighbors, "
            f"under {limits.min_overlap:.1%}"
        )
    return sentences


def _most_moved(
    ids: Sequence[str], overlaps: _Matrix, before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]
) -> list[Moved]:
    worst = [n for n in np.argsort(overlaps, kind="stable")[:_LISTED].tolist() if overlaps[n] < 1]
    return [
        Moved(
            product=ids[n],
            overlap=float(overlaps[n]),
            before=[ids[m] for m in before[n]],
            after=[ids[m] for m in after[n]],
        )
        for n in worst
    ]


def _unit(vectors: NDArray[np.float32]) -> _Matrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: _Matrix = vectors.astype(np.float64) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _nearest(vectors: _Matrix, k: int) -> list[list[int]]:
    """Return for each row the `k` other rows of greatest cosine, nearest first; the first of equal ones."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: list[list[int]] = np.argsort(-cosines, axis=1, kind="stable")[:, :k].tolist()
    return nearest


def _histogram(values: _Matrix, low: float, high: float) -> list[int]:
    counts: list[int] = np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))[0].tolist()
    return counts


def _map(left: _Matrix, right: _Matrix) -> list[tuple[float, float, float, float]]:
    """Project both sets on the two axes along which all vectors differ most (principal components)."""
    both = np.concatenate([left, right])
    _, _, axes = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    flat = (both - both.mean(axis=0)) @ axes[:2].T
    pairs = np.round(np.hstack([flat[: len(left)], flat[len(left) :]]), 4).tolist()
    return [(a, b, c, d) for a, b, c, d in pairs]
