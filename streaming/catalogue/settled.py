"""Settled products: an update of price or availability needs neither their text nor their embedding.

A product is settled at a version if all its images are present and its published embedding was made from its features.
It stays settled until its text or images change. Every such change raises the version or is made by this process. So if
the stored version equals the remembered one, nothing changed and the product is still settled. Products that are not
remembered take the general path. The category is remembered too, because each published offer states it.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterable, Mapping

from msgspec import Struct


class SettledProduct(Struct, frozen=True, gc=False):
    """The version at which a product was settled, and its category."""

    version: int
    product_type: str


class SettledProducts:
    """Remembers the settled products of one model version and one visual encoder; safe to share between threads.

    Args:
        limit: Number of products to remember; the oldest are dropped. 500,000 take about 130 MB.

    Attributes:
        model_version: Model version of the embeddings; None while nothing is remembered.
        visual_version: Version of the visual encoder; None while nothing is remembered.
    """

    def __init__(self, limit: int = 500_000) -> None:
        self.model_version: str | None = None
        self.visual_version: str | None = None
        self._limit = limit
        self._products: dict[str, SettledProduct] = {}
        self._lock = threading.Lock()

    def __contains__(self, product_id: str) -> bool:
        return product_id in self._products

    def at(self, product_id: str, version: int) -> SettledProduct | None:
        """Return the product if it was settled at this version."""
        product = self._products.get(product_id)
        return product if product is not None and product.version == version else None

    def add(self, model_version: str, visual_version: str, products: Mapping[str, SettledProduct]) -> None:
        """Remember products; forget those of another model version or visual encoder."""
        with self._lock:
            if (model_version, visual_version) != (self.model_version, self.visual_version):
                self._products.clear()
                self.model_version, self.visual_version = model_version, visual_version
            for product_id, product in products.items():
                # Interned: all products of a category share one string.
                self._products[product_id] = SettledProduct(product.version, sys.intern(product.product_type))
            if (excess := len(self._products) - self._limit) > 0:
                for product_id in list(itertools.islice(self._products, excess)):
                    del self._products[product_id]

    def advance(self, versions: Mapping[str, int]) -> None:
        """Raise the versions of remembered products whose offer alone changed."""
        with self._lock:
            for product_id, version in versions.items():
                if (product := self._products.get(product_id)) is not None:
                    self._products[product_id] = SettledProduct(version, product.product_type)

    def forget(self, product_ids: Iterable[str]) -> None:
        """Forget products that are about to change."""
        with self._lock:
            for product_id in product_ids:
                self._products.pop(product_id, None)
