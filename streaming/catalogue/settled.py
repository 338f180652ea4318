"""Which products are in order, so that a new price costs neither a look at the text nor one at the embedding.

Their categories are remembered with them: what a product is filtered by is published with each new price.

In order is a product whose images are all there and whose published embedding is that of its features. So it stays
until its text or images change, and whoever changes those gives it a newer version (or is this very process): that the
store still has it at the version remembered tells that it is still in order. What is not remembered is looked up.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterable, Mapping

from msgspec import Struct


class InOrder(Struct, frozen=True, gc=False):
    """A product at the version at which it was in order."""

    version: int
    product_type: str


class Settled:
    """What is known by product, of one model and one visual encoder; the oldest go when there are too many.

    Safe to share between threads.
    """

    def __init__(self, limit: int = 500_000) -> None:  # about 130 MB
        self.model_version: str | None = None
        self.visual_version: str | None = None
        self._limit = limit
        self._known: dict[str, InOrder] = {}
        self._lock = threading.Lock()

    def __contains__(self, product_id: str) -> bool:
        return product_id in self._known

    def at(self, product_id: str, version: int) -> InOrder | None:
        """What is known of the product, if it was in order at this version."""
        known = self._known.get(product_id)
        return known if known is not None and known.version == version else None

    def add(self, model_version: str, visual_version: str, products: Mapping[str, InOrder]) -> None:
        """These are in order; what is known of other models or encoders is forgotten."""
        with self._lock:
            if (model_version, visual_version) != (self.model_version, self.visual_version):
                self._known.clear()
                self.model_version, self.visual_version = model_version, visual_version
            for product_id, known in products.items():
                # One text for a whole category.
                self._known[product_id] = InOrder(known.version, sys.intern(known.product_type))
            if (over := len(self._known) - self._limit) > 0:
                for product_id in list(itertools.islice(self._known, over)):
                    del self._known[product_id]

    def advance(self, versions: Mapping[str, int]) -> None:
        """Nothing but their offers changed; what is not remembered stays so."""
        with self._lock:
            for product_id, version in versions.items():
                if (known := self._known.get(product_id)) is not None:
                    self._known[product_id] = InOrder(version, known.product_type)

    def forget(self, product_ids: Iterable[str]) -> None:
        """They are about to change."""
        with self._lock:
            for product_id in product_ids:
                self._known.pop(product_id, None)
