"""Which products are in order, so that a new price costs neither a look at the text nor one at the embedding.

In order is a product whose images are all there and whose published embedding is that of its features. So it stays
until its text or images change, and whoever changes those gives it a newer version (or is this very process): that the
store still has it at the version remembered tells that it is still in order. What is not remembered is looked up.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping


class Settled:
    """Version by product, of one model and one visual encoder; the oldest entries go when there are too many.

    Safe to share between threads.
    """

    def __init__(self, limit: int = 500_000) -> None:  # about 100 MB
        self.model_version: str | None = None
        self.visual_version: str | None = None
        self._limit = limit
        self._versions: dict[str, int] = {}
        self._lock = threading.Lock()

    def __contains__(self, product_id: str) -> bool:
        return product_id in self._versions

    def holds(self, product_id: str, version: int) -> bool:
        """Whether the product was in order at this version."""
        return self._versions.get(product_id) == version

    def add(self, model_version: str, visual_version: str, versions: Mapping[str, int]) -> None:
        """These are in order; what is known of other models or encoders is forgotten."""
        with self._lock:
            if (model_version, visual_version) != (self.model_version, self.visual_version):
                self._versions.clear()
                self.model_version, self.visual_version = model_version, visual_version
            self._put(versions)

    def advance(self, versions: Mapping[str, int]) -> None:
        """Nothing but their offers changed."""
        with self._lock:
            self._put(versions)

    def forget(self, product_ids: Iterable[str]) -> None:
        """They are about to change."""
        with self._lock:
            for product_id in product_ids:
                self._versions.pop(product_id, None)

    def _put(self, versions: Mapping[str, int]) -> None:
        self._versions.update(versions)
        if (over := len(self._versions) - self._limit) > 0:
            for product_id in list(itertools.islice(self._versions, over)):
                del self._versions[product_id]
