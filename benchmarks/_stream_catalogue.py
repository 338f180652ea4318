"""The catalogue of `benchmarks.stream`: products with real texts, and the messages that change them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from streaming.contracts import Price, ProductUpdate
from streaming.kafka.codec import JSON

PRODUCTS = 16_384

Message = tuple[bytes, bytes]
"""Key and value."""


class Catalogue:
    """Products and their updates.

    Args:
        texts: Text fields of real products.

    Attributes:
        texts: Text fields of real products.
        links: 1 to 5 image links of each product.
    """

    def __init__(self, texts: Sequence[Mapping[str, str]]) -> None:
        self.texts, self._chance = texts, np.random.default_rng(0)
        self.links = [[f"https://images.example/{n}/{k}.jpg" for k in range(1 + n % 5)] for n in range(PRODUCTS)]
        self._prices = [Price(Decimal("12.30"), "EUR")] * PRODUCTS
        self._version = 1
        self._next = 0

    def full(self, passes: int) -> list[Message]:
        """Return a full update with other texts for every product, `passes` times."""
        return [self._upsert(n) for _ in self._versions(passes) for n in range(PRODUCTS)]

    def full_part(self, number: int) -> list[Message]:
        """Return full updates of the next products, with a new version."""
        self._version += 1
        return list(self.some(number))

    def some(self, number: int) -> Iterator[Message]:
        """Yield full updates of the next products, cyclically."""
        for _ in range(number):
            self._next = (self._next + 1) % PRODUCTS
            if self._next == 0:
                self._version += 1
            yield self._upsert(self._next)

    def offers(self, passes: int) -> list[Message]:
        """Return a price update for every product, `passes` times."""
        return [self._price(n) for _ in self._versions(passes) for n in range(PRODUCTS)]

    def _versions(self, passes: int) -> Iterator[int]:
        for _ in range(passes):
            self._version += 1
            yield self._version

    def _upsert(self, n: int) -> Message:
        title, description = (self.texts[i] for i in self._chance.integers(0, len(self.texts), 2).tolist())
        return self._message(
            n,
            title=title["title"],
            description=description.get("description", ""),
            link=f"https://shop.example/products/{n}",
            image_link=self.links[n][0],
            additional_image_link=self.links[n][1:],
            product_type=[self.texts[n % len(self.texts)].get("product_type", "")],
            brand=description.get("brand", "Acme"),
            price=self._prices[n],
            availability="in_stock",
        )

    def _price(self, n: int) -> Message:
        self._prices[n] = Price(Decimal(100 + self._version * 7 % 900) / 100, "EUR")
        return self._message(n, op="patch", price=self._prices[n])

    def _message(self, n: int, **fields: Any) -> Message:
        update = ProductUpdate(id=f"product-{n}", version=self._version, event_time=datetime.now(UTC), **fields)
        return update.id.encode(), JSON.encode(update)
