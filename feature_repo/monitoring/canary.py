"""What changes for shoppers between two model versions, seen on a canary set: a few products, the same ones each time.

Vectors of two models need not lie in one space, so their own distance says little by itself. Each product's nearest
neighbours within the set say what a shopper would see: those are compared version by version, and need no common space.
The set is drawn by a hash of the ids, so that it stays nearly the same while the catalogue changes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.errors import InvalidFeatureError

SIZE: Final = 1_000  # products
NEIGHBOURS: Final = 10
_TOLD: Final = 10  # products whose neighbours changed most, by name
_BINS: Final = 20

Vectors = Mapping[str, NDArray[np.float32]]


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A product with other neighbours than before."""

    product: str
    overlap: float
    before: list[str]  # nearest first
    after: list[str]


class CanaryDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Two model versions over the same products. All from 0, alike, to 1, unless said otherwise."""

    old: str
    new: str
    products: int
    without_vector: int  # of the set, in one of the versions
    centroid_shift: float  # 1 - cosine of the two means, 0 to 2; for models of one space
    old_concentration: float  # length of the mean: 1 when all vectors point the same way
    new_concentration: float
    similarities: list[int]  # histogram of the cosine between a product's two vectors, -1 to 1
    neighbours: int
    overlap: float  # mean share of a product's nearest neighbours that stay; 1 when nothing changed
    overlap_p10: float  # one product in ten keeps no more
    overlap_by_chance: float  # what two unrelated models would keep
    overlaps: list[int]  # how many products keep 0, 1, ... all of them
    moved: list[Moved]
    map: list[tuple[float, float, float, float]]  # before and after on the two main axes of both; for a picture


class CanaryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is too much; None asks nothing."""

    max_centroid_shift: float | None = None
    min_overlap: float | None = None


def choose(ids: Iterable[str], size: int = SIZE) -> list[str]:
    """The canary set: the ids of the `size` smallest hashes, so that a product more or less changes one at most."""
    return [id for _, id in heapq.nsmallest(size, ((crc32(id.encode()), id) for id in ids))]


def compare(store: Any, old: str, new: str, ids: Sequence[str] | None = None) -> CanaryDrift:
    """Drift between two model versions of a `ProductFeatureStore`, over `ids` or a set of its live products.

    Raises:
        UnknownModelVersionError: one of them has no view.
        InvalidFeatureError: too few products have a vector in both.
    """
    chosen = list(dict.fromkeys(ids)) if ids is not None else choose(store.product_ids())
    before, after = (
        {id: row.vector for id, row in store.read_embeddings(version, chosen).items() if not row.deleted}
        for version in (old, new)
    )
    return drift(before, after, old=old, new=new, asked=len(chosen))


def drift(before: Vectors, after: Vectors, *, old: str, new: str, asked: int, k: int = NEIGHBOURS) -> CanaryDrift:
    """Drift from vectors [d] by product id, of those that both hold; `asked` products were wanted."""
    ids = [id for id in before if id in after]
    if len(ids) < k + 2:
        raise InvalidFeatureError(
            f"{len(ids)} of the canary's {asked} products have a vector in both {old} and {new}: at least {k + 2} are "
            "needed to compare neighbours. Embed the catalogue under both, or give other products."
        )
    left, right = (_unit(np.stack([vectors[id] for id in ids])) for vectors in (before, after))
    nearest = _nearest(left, k), _nearest(right, k)
    overlaps = np.array([len(set(a) & set(b)) / k for a, b in zip(*nearest, strict=True)])
    means = left.mean(axis=0), right.mean(axis=0)
    lengths = [float(np.linalg.norm(mean)) for mean in means]
    one_space = left.shape[1] == right.shape[1]
    worst = [n for n in np.argsort(overlaps, kind="stable")[:_TOLD].tolist() if overlaps[n] < 1]
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
        moved=[
            Moved(
                product=ids[n],
                overlap=float(overlaps[n]),
                before=[ids[m] for m in nearest[0][n]],
                after=[ids[m] for m in nearest[1][n]],
            )
            for n in worst
        ],
        map=_map(left, right) if one_space else [],
    )


def findings(found: CanaryDrift, limits: CanaryLimits) -> list[str]:
    """What passes a limit, one sentence each."""
    told = []
    versions = f"{found.old} to {found.new}"
    if limits.max_centroid_shift is not None and found.centroid_shift > limits.max_centroid_shift:
        told.append(f"{versions}: the centroid moved by {found.centroid_shift:.3f}, over {limits.max_centroid_shift:g}")
    if limits.min_overlap is not None and found.overlap < limits.min_overlap:
        told.append(
            f"{versions}: products keep {found.overlap:.1%} of their {found.neighbours} nearest neighbours, "
            f"under {limits.min_overlap:.1%}"
        )
    return told


def _unit(vectors: Any) -> Any:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float64) / np.maximum(lengths, np.finfo(np.float32).tiny)


def _nearest(vectors: Any, k: int) -> list[list[int]]:
    """Of each row the `k` others of greatest cosine, nearest first; of equal ones the first."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: list[list[int]] = np.argsort(-cosines, axis=1, kind="stable")[:, :k].tolist()
    return nearest


def _histogram(values: Any, low: float, high: float) -> list[int]:
    counts: list[int] = np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))[0].tolist()
    return counts


def _map(left: Any, right: Any) -> list[tuple[float, float, float, float]]:
    """Both sets on the two axes along which all of them differ most (principal components)."""
    both = np.concatenate([left, right])
    _, _, axes = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    flat = (both - both.mean(axis=0)) @ axes[:2].T
    pairs = np.round(np.hstack([flat[: len(left)], flat[len(left) :]]), 4).tolist()
    return [(a, b, c, d) for a, b, c, d in pairs]
