"""The training set: products packed for fast batches, and engagements as (query, product, task) pairs.

A task is a query kind (image | search) x an engagement (click | save | add_to_cart | checkout). All tasks share every
batch with equal quotas; they differ only in the frozen encoder that embeds the query (ItemSage §3.3).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from inference.errors import InputError
from inference.inputs import VECTOR_DIM, Float32Array, ProductInput, check_images
from inference.tokenizer import Tokenizer

QueryKind = Literal["image", "search"]
Action = Literal["click", "save", "add_to_cart", "checkout"]
TASKS: tuple[tuple[QueryKind, Action], ...] = (
    ("image", "click"),
    ("image", "save"),
    ("image", "add_to_cart"),
    ("image", "checkout"),
    ("search", "click"),
    ("search", "save"),
    ("search", "add_to_cart"),
    ("search", "checkout"),
)

IntArray = np.ndarray[Any, np.dtype[np.int64]]


class Engagement(msgspec.Struct, frozen=True):
    """`count` engagements of one kind with one product, after one query.

    `query` is the text of a search, or the product id whose main image was the image query.
    """

    kind: QueryKind
    query: str
    product_id: str
    action: Action
    count: int = 1


class PackedProducts:
    """The products' inputs in flat arrays, so that a batch is two gathers and no loop over products."""

    def __init__(self, products: Sequence[ProductInput], tokenizer: Tokenizer) -> None:
        self.ids = [p.id for p in products]
        self.vocabulary = tokenizer.size
        self.index = {p: i for i, p in enumerate(self.ids)}
        if len(self.index) != len(self.ids):
            twice = next(p for p, n in Counter(self.ids).items() if n > 1)
            raise InputError(f"product {twice!r} occurs twice in the training set")
        for product in products:
            check_images(f"product {product.id!r}", product.images)
        self.image_counts = np.fromiter((len(p.images) for p in products), np.int64, len(products))
        self._image_starts = np.cumsum(self.image_counts) - self.image_counts
        self._images = np.concatenate([np.zeros((1, VECTOR_DIM)), *(p.images for p in products)], dtype=np.float32)
        tokens, lengths = tokenizer.encode_flat([p.text for p in products])
        self.field_lengths = lengths.astype(np.int64)
        self._token_counts = self.field_lengths.sum(1)
        self._token_starts = np.cumsum(self._token_counts) - self._token_counts
        self._tokens = np.concatenate([np.zeros(1, np.int64), tokens])

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: IntArray, *, images: bool = True, text: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `ItemSage.forward` for these rows; without images or without text for ablations."""
        counts = self.image_counts[rows] if images else np.zeros(len(rows), np.int64)
        lengths = self.field_lengths[rows] if text else np.zeros_like(self.field_lengths[rows])
        image_at = _gather(self._image_starts[rows], counts)
        token_at = _gather(self._token_starts[rows], lengths.sum(1))
        return (
            torch.from_numpy(self._images[image_at]),
            torch.from_numpy(counts),
            torch.from_numpy(self._tokens[token_at]),
            torch.from_numpy(lengths),
        )

    def main_images(self) -> tuple[Float32Array, np.ndarray[Any, np.dtype[np.bool_]]]:
        """The first image's vector of each product `[P, 256]` (zeros without one), and who has one `[P]`."""
        has = self.image_counts > 0
        return self._images[np.where(has, self._image_starts + 1, 0)], has

    def summed_images(self) -> Float32Array:
        """The *Sum* baseline `[P, 256]`: image vectors summed, unit length; zeros for a product without images."""
        return sum_images(
            [self._images[s + 1 : s + 1 + n] for s, n in zip(self._image_starts, self.image_counts, strict=True)]
        )


def sum_images(images: Sequence[Float32Array]) -> Float32Array:
    """The *Sum* baseline: `[n_i, 256]` image vectors per product -> `[B, 256]`, summed and of unit length."""
    total = np.zeros((len(images), VECTOR_DIM), np.float32)
    for row, vectors in enumerate(images):
        total[row] = vectors.sum(0)
    unit: Float32Array = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return unit


class Pairs:
    """Engagements as index arrays, split by hash into training and held-out pairs.

    Left out: engagements with products that are not in the catalogue, and image queries by a product that is not there,
    has no image, or is the engaged product itself.

    Attributes:
        queries: the distinct (kind, query), `query` `[N]` indexes it.
        product, task, count: `[N]` each.
        held_out: `[N]` bool. The split is by (query, product), so that no pair is on both sides.
        query_product: `[Q]`, the product whose image the query is, -1 for a search.

    Raises:
        InputError: an unknown task, a count below 1, or no usable engagement at all.
    """

    def __init__(self, engagements: Sequence[Engagement], packed: PackedProducts, held_out_share: float = 0.1) -> None:
        for e in engagements:
            if (e.kind, e.action) not in TASKS or e.count < 1:
                raise InputError(
                    f"{e!r} is no engagement: kind and action must be one of "
                    f"{', '.join('/'.join(t) for t in TASKS)}, count at least 1"
                )
        has_image = packed.image_counts > 0
        usable = [
            e
            for e in engagements
            if e.product_id in packed.index
            and (
                e.kind == "search"
                or ((q := packed.index.get(e.query)) is not None and has_image[q] and e.query != e.product_id)
            )
        ]
        if not usable:
            raise InputError(
                f"none of the {len(engagements)} engagements is about a product of the catalogue after a usable query; "
                "publish the catalogue and collect clicks first"
            )
        self.queries: list[tuple[QueryKind, str]] = sorted({(e.kind, e.query) for e in usable})
        asked = [packed.index[q] if kind == "image" else -1 for kind, q in self.queries]
        self.query_product = np.array(asked, np.int64)
        position = {q: i for i, q in enumerate(self.queries)}
        tasks = {t: i for i, t in enumerate(TASKS)}
        self.query = np.array([position[e.kind, e.query] for e in usable], np.int64)
        self.product = np.array([packed.index[e.product_id] for e in usable], np.int64)
        self.task = np.array([tasks[e.kind, e.action] for e in usable], np.int64)
        self.count = np.array([e.count for e in usable], np.int64)
        self.held_out = np.array([_share(e.kind, e.query, e.product_id) < held_out_share for e in usable])
        if self.held_out.all():  # a handful of pairs: better to train on them
            self.held_out[:] = False

    @property
    def training(self) -> IntArray:
        """Row numbers of the training pairs."""
        return np.flatnonzero(~self.held_out)


def _gather(starts: IntArray, counts: IntArray) -> IntArray:
    """Positions in a flat array with a pad element in front: `[B, max(count, 1)]`, 0 where there is nothing."""
    column = np.arange(max(1, int(counts.max(initial=0))))
    return np.where(column < counts[:, None], starts[:, None] + 1 + column, 0)


def _share(*parts: str) -> float:
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
