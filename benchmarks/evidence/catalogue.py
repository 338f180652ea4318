"""The catalogues: products as the model takes them and as shoppers see them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from inference.arrays import Float32Array
from inference.errors import InputError
from inference.inputs import VECTOR_DIM, ProductInput
from sagelift.demo.shoppers import FloatArray, ShopProduct

if TYPE_CHECKING:
    from inference.visual_cache import VisualCache

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

_THUMBNAIL = 4
_PRODUCTS_AT_ONCE = 64


@dataclass(frozen=True)
class Catalogue:
    """One catalogue.

    Attributes:
        name: Its name.
        products: The products as the model takes them.
        shop: The same products as shoppers see them.
        looks: Colours of a 4 x 4 thumbnail of each product's first image, `[P, 48]`.
    """

    name: str
    products: Sequence[ProductInput]
    shop: Sequence[ShopProduct]
    looks: FloatArray

    @cached_property
    def digest(self) -> str:
        """Hash of all inputs of the model."""
        state = hashlib.sha256()
        for product in self.products:
            state.update(msgspec.json.encode([product.id, product.text]))
            state.update(np.ascontiguousarray(product.images).tobytes())
        return state.hexdigest()[:16]


def load_catalogue(
    name: str, feeds: Sequence[Path], cache: VisualCache, on_progress: Callable[[int, int], None]
) -> Catalogue:
    """Read feeds into one catalogue: all products with a price, with their images.

    Args:
        name: Name of the catalogue.
        feeds: Paths of the feeds.
        cache: Image vectors that are known already. The frozen visual encoder computes the others in this process.
        on_progress: Called with the number of finished products and their total.

    Raises:
        FeedError: A feed cannot be read.
        InputError: The prices are in several currencies, or a product occurs twice.
    """
    from streaming.catalogue.images.fetch import ImageFetcher
    from streaming.catalogue.images.vectors import CachedImageVectors
    from streaming.catalogue.merging import merge
    from streaming.errors import ImageError
    from streaming.feeds import BadRow, read_feed

    rows = [row for feed in feeds for row in read_feed(feed, now=datetime.now(UTC)) if not isinstance(row, BadRow)]
    products = [product for row in rows if (product := merge(None, row)).amount_minor and product.currency]
    if len(currencies := {p.currency for p in products}) > 1:
        raise InputError(f"{name} has prices in {', '.join(sorted(map(str, currencies)))}; shoppers need one currency")
    images, looks = [], np.zeros((len(products), _THUMBNAIL**2 * 3))
    with ImageFetcher() as fetcher:
        vectors_of = CachedImageVectors(fetcher.fetch_many, _encode_images(), cache).vectors
        for start in range(0, len(products), _PRODUCTS_AT_ONCE):
            part = products[start : start + _PRODUCTS_AT_ONCE]
            by_link = vectors_of(list(dict.fromkeys(link for p in part for link in p.links)))
            for number, product in enumerate(part, start):
                vectors = [f[1] for link in product.links if not isinstance(f := by_link[link], ImageError)]
                images.append(np.stack(vectors) if vectors else np.zeros((0, VECTOR_DIM), np.float32))
                main = fetcher.fetch_many(product.links[:1])
                if main and not isinstance(main[0], ImageError):
                    looks[number] = _thumbnail(main[0].pixels)
            on_progress(start + len(part), len(products))
    return Catalogue(
        name,
        [ProductInput(p.id, p.text, v) for p, v in zip(products, images, strict=True)],
        [ShopProduct(p.id, p.text, int(p.amount_minor or 0), str(p.currency)) for p in products],
        looks,
    )


def _encode_images() -> Callable[[Pixels], tuple[Float32Array, dict[int, str]]]:
    """Return the frozen visual encoder in this process, without a server; loaded at the first unknown image."""
    import torch

    from inference.visual import VisualEncoder

    loaded: list[VisualEncoder] = []

    def encode(pixels: Pixels) -> tuple[Float32Array, dict[int, str]]:
        if not loaded:
            loaded.append(VisualEncoder.pretrained())
        with torch.inference_mode():
            return loaded[0](torch.from_numpy(pixels)).numpy(), {}

    return encode


def _thumbnail(pixels: Pixels) -> FloatArray:
    """Return the mean colours of 4 x 4 fields, `[48]`, which differ from what the image encoder computes."""
    side = len(pixels) // _THUMBNAIL
    cut = pixels[: side * _THUMBNAIL, : side * _THUMBNAIL].astype(float)
    colours: FloatArray = cut.reshape(_THUMBNAIL, side, _THUMBNAIL, side, 3).mean((1, 3)).ravel()
    return colours
