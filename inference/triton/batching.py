"""Group products into requests so that little padding is sent and computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inference.arrays import Int32Array, Int64Array
from inference.inputs import MAX_IMAGES

_IMAGE_BUCKETS = np.array([1, 2, 4, 8, 12, MAX_IMAGES])
_MIN_BUCKET = 32  # one request of any size costs about 0.6 ms: below this many products, padding is cheaper


def group_by_size(counts: Int32Array, batch: int, tokens: Int32Array | None = None) -> Iterator[Int64Array]:
    """Yield the row numbers of products with similar numbers of images, fewest images first.

    Args:
        counts: `[B]`, the number of images of each product.
        batch: Largest number of products in one group.
        tokens: `[B]`, the number of tokens of each product. If given, products of similar length are grouped within
            the same number of images, which needs less padding.
    """
    order = np.argsort(counts, kind="stable") if tokens is None else np.lexsort((tokens, counts))
    buckets = np.searchsorted(_IMAGE_BUCKETS, counts[order])
    start = 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or end - start == batch
        if full or (buckets[end] != buckets[end - 1] and end - start >= _MIN_BUCKET):
            yield order[start:end]
            start = end
